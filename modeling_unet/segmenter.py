"""A slice in, its tumour out: image processor and network behind one call, which gives a `Segmentation`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from .configuration_unet import OVERLAPPING, UNetConfig
from .familiarity import Familiarity, levels_of, pool
from .framing import FRAMINGS, Frame, find_frames, paste
from .image_processing_unet import Picture, UNetImageProcessor, read_channels, read_picture
from .inference import optimize_for_inference
from .modeling_unet import UNetForSemanticSegmentation
from .overlay import class_colors, to_display
from .segmentation import DEFAULT_THRESHOLD, Segmentation, check_spacing, spacing_within


OPTIMIZE = ("auto", "none")
# Multiples of the network's own size at which "best" looks at a slice, each time with its mirror image too.
SCALES = {"fast": (1.0,), "best": (1.0, 1.25, 1.5)}
QUALITIES = tuple(SCALES)


class TumorSegmenter:
    """Find the tumour in MRI slices of any size and depth.

    Example:

    ```python
    >>> from modeling_unet import TumorSegmenter

    >>> segmenter = TumorSegmenter.from_pretrained("weights/brain-tumor-unet")
    >>> segmentation = segmenter("slice.png")
    >>> segmentation.tumor_found, segmentation.area_px
    >>> picture = segmentation.overlay(style="contour")
    ```

    Attributes:
        model: as it was loaded, for saving and for training on.
        network: what segments: the model itself or, with `optimize="auto"`, a faster copy. Later changes to the model
            do not change the copy.
        image_processor: what prepares the slices.
        quality: "fast" or "best", as in `from_pretrained`.
        framing: "auto" or "none", as in `from_pretrained`.
        familiarity: what tells the pictures that the model knows from others, or None.
    """

    def __init__(
        self,
        model: UNetForSemanticSegmentation,
        image_processor: UNetImageProcessor,
        device: str | torch.device = "auto",
        optimize: str = "none",
        quality: str = "fast",
        framing: str = "auto",
        familiarity: Familiarity | None = None,
    ):
        """Take the model over: it is moved to `device` and put into evaluation mode.

        Args:
            optimize, quality, framing: as in `from_pretrained`.
            familiarity: what lies beside the weights; None never warns of pictures that the model does not know.

        Raises:
            ValueError: a model of too many classes, a processor for other channels or another kind of classes, a device
                that is not there, a familiarity of another architecture, or another `optimize`, `quality` or `framing`.
        """
        if quality not in QUALITIES:
            raise ValueError(f"quality is {quality!r}; allowed are {', '.join(QUALITIES)}.")
        if optimize not in OPTIMIZE:
            raise ValueError(f"optimize is {optimize!r}; allowed are {', '.join(OPTIMIZE)}.")
        check_framing(framing)
        check_channels(model.config, image_processor)
        class_colors(len(model.config.class_names))
        if model.config.classes_overlap != (image_processor.problem_type == OVERLAPPING):
            raise ValueError(
                f"`problem_type` is {model.config.problem_type} in config.json and {image_processor.problem_type} in "
                "preprocessor_config.json; give both the same."
            )
        if familiarity:
            familiarity.check_fits(model.config)
        self.model = model.eval().to(resolve_device(device), memory_format=torch.channels_last)
        self.network = optimize_for_inference(self.model) if optimize == "auto" else self.model
        self.image_processor = image_processor
        self.quality = quality
        self.framing = framing
        self.familiarity = familiarity

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        device: str | torch.device = "auto",
        revision: str | None = None,
        optimize: str = "auto",
        quality: str = "fast",
        framing: str = "auto",
    ) -> "TumorSegmenter":
        """Load model and processor from a folder, or by the id of a model repository on the Hub.

        Code that lies beside the weights is never executed.

        Args:
            path_or_id: folder or Hub id; a folder never touches the network.
            device: "auto" takes CUDA, else MPS, else the CPU; or a device such as "cpu" or "cuda:1".
            revision: branch, tag or commit of a model on the Hub; None takes the newest. A folder has none.
            optimize: "auto" segments with a faster copy of the model, in half precision where the device is made for
                it, which moves the edge of a mask by a few pixels; "none" with the model as it is.
            quality: "fast" looks at a slice once; "best" looks at it and at its mirror image in three sizes. Where the
                first look finds a tumour, all looks that find it are averaged, which takes about ten times as long and
                misses fewer edges.
            framing: "auto" cuts heads out of larger pictures, such as screenshots, and exchanges white and black of
                negatives; a slice that one head fills stays as it is. "none" takes every picture as a whole, and so
                does every model of several channels, whose pictures come from scans and belong together.

        Raises:
            ValueError: another kind of model, incomplete weights, and as when a segmenter is built.
            OSError: there is no model of that name, or its files cannot be read.
        """
        with loading(path_or_id):
            config, _ = PreTrainedConfig.get_config_dict(path_or_id, revision=revision)
            model_type = config.get("model_type", "unknown (no config.json)")
        if model_type != UNetConfig.model_type:
            raise ValueError(f"the model type of {path_or_id} is {model_type}; allowed is {UNetConfig.model_type}.")
        with loading(path_or_id):
            image_processor = UNetImageProcessor.from_pretrained(path_or_id, revision=revision or "main")
            # Its annotation does not know that this makes it return a pair.
            loaded: Any = UNetForSemanticSegmentation.from_pretrained(
                path_or_id, revision=revision or "main", output_loading_info=True
            )
            familiarity = Familiarity.from_pretrained(path_or_id, revision=revision)
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"the weights in {path_or_id} are incomplete; missing are {', '.join(missing)}.")
        return cls(model, image_processor, device, optimize, quality, framing, familiarity)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.model.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the model calls the kinds of tumour that it tells apart."""
        return tuple(self.model.config.class_names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the model calls its channels, if it takes several; none if it takes grey slices."""
        return tuple(self.image_processor.channel_names or ())

    def __call__(self, image, spacing: tuple[float, float] | None = None) -> Segmentation:
        """Segment one slice.

        Args:
            image: whatever `read_picture` reads: a path, a PIL image, an array or a tensor; for a model of several
                channels whatever `read_channels` reads: a list of pictures, one for each, or an array [C, H, W].
            spacing: size of a pixel of it in mm as (row, column), for measurements in mm.

        Returns:
            The segmentation, of the slice's own height and width; of one that was scaled down, of what was read. Of
            several channels, the first is the picture that overlays show.

        Raises:
            InvalidImageError: the slice cannot be read.
            ValueError: the spacing is not two numbers from 0.01 to 100.
        """
        return next(self.batch([image], spacing=spacing))

    def batch(
        self,
        images: Iterable,
        batch_size: int = 8,
        spacing: tuple[float, float] | None = None,
        framing: str | None = None,
    ) -> Iterator[Segmentation]:
        """Segment many slices, of any mixture of sizes, `batch_size` at a time.

        Args:
            images: slices as in a call, read only when their turn comes.
            batch_size: how many go through the network together, at least 1.
            spacing: as in a call, the same for all.
            framing: "auto" or "none"; None takes the segmenter's own. The slices of a volume need "none": heads that
                grow from slice to slice would each be brought to one size.

        Returns:
            An iterator over one segmentation per slice, in their order.

        Raises:
            InvalidImageError, ValueError: as in a call, for the whole batch of the slice concerned.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed are whole numbers from 1.")
        check_spacing(spacing)
        framing = check_framing(framing or self.framing)
        images = iter(images)
        batches = iter(lambda: list(islice(images, batch_size)), [])
        return (segmentation for batch in batches for segmentation in self._segment(batch, spacing, framing))

    @torch.inference_mode()
    def _segment(self, sources: list, spacing: tuple[float, float] | None, framing: str) -> list[Segmentation]:
        several = self.channel_names
        if several:
            pictures = [Picture(read_channels(source, several)) for source in sources]
        else:
            pictures = [read_picture(source) for source in sources]
        images = [picture.pixels for picture in pictures]
        frames = [find_frames(image) if framing == "auto" and not several else [] for image in images]
        whole = [image for image, of_image in zip(images, frames, strict=True) if not of_image]
        found = iter(self._look_at(whole) if whole else [])
        segmentations = []
        for picture, image, of_image in zip(pictures, images, frames, strict=True):
            probability, familiarity = self._framed(image, of_image, len(sources)) if of_image else next(found)
            classes: dict[str, Any] = {}
            if probability.ndim == 3:
                classes = {"class_names": self.class_names, "class_probabilities": probability}
                classes["classes_overlap"] = self.model.config.classes_overlap
                probability = probability.max(axis=0)
            boxes = tuple(frame.box(*image.shape[:2]) for frame in of_image)
            inverted = any(frame.inverted for frame in of_image)
            segmentations.append(
                Segmentation(
                    to_display(image[0] if several else image),
                    probability,
                    spacing=spacing_within(spacing, picture.full_size, image.shape),
                    frames=boxes,
                    inverted=inverted,
                    familiarity=familiarity,
                    **classes,
                    full_size=picture.full_size,
                )
            )
        return segmentations

    def _framed(self, image: np.ndarray, frames: list[Frame], batch_size: int) -> tuple[np.ndarray, float | None]:
        """As `_look_at` of one slice, but as it is within the frames, so many at a time."""
        found = []
        for start in range(0, len(frames), batch_size):
            found += self._look_at([frame.cut(image) for frame in frames[start : start + batch_size]])
        probabilities, familiarities = zip(*found, strict=True)
        familiarity = min(familiarities) if self.familiarity else None
        size = image.shape[:2]
        if probabilities[0].ndim == 3:
            return np.stack(
                [paste(frames, list(of_class), size) for of_class in zip(*probabilities, strict=True)]
            ), familiarity
        return paste(frames, list(probabilities), size), familiarity

    def _look_at(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, float | None]]:
        """Of every slice: tumour probability, from all looks together; familiarity, from the first.

        The probability is float32 [H, W], and [K, H, W] of a model of several classes.
        """
        sizes = [image.shape[-2:] if self.channel_names else image.shape[:2] for image in images]
        views: list[list[torch.Tensor]] = []
        levels = levels_of(self.network.config) if self.familiarity else None
        familiarities: list[float | None] = [None] * len(images)
        processor, several = self.image_processor, self.model.config.num_labels > 2
        post_process = processor.post_process_class_probabilities if several else processor.post_process_probability
        for scale in SCALES[self.quality]:
            size = {name: round(scale * side) for name, side in dict(self.image_processor.size).items() if side}
            pixel_values = self.image_processor(images, size=size, return_tensors="pt")["pixel_values"]
            pixel_values = pixel_values.to(self.device, self.network.dtype, memory_format=torch.channels_last)
            outputs = self.network(pixel_values, output_hidden_states=None if views else levels)
            if self.familiarity and levels and not views:
                features = pool(pixel_values, [outputs.hidden_states[level] for level in levels])
                familiarities = [*self.familiarity(features)]
            views.append(post_process(outputs, target_sizes=sizes))
            if self.quality == "best":
                outputs = self.network(pixel_values.flip(-1))
                outputs.logits = outputs.logits.flip(-1)
                views.append(post_process(outputs, target_sizes=sizes))
        probabilities = [put_together(list(of_slice)).cpu().numpy() for of_slice in zip(*views, strict=True)]
        return list(zip(probabilities, familiarities, strict=True))


def put_together(looks: list[torch.Tensor]) -> torch.Tensor:
    """One probability, [H, W] or [K, H, W], of several looks at a slice.

    The first look, at the network's own size, says whether there is a tumour: `presence_logit` is meant for that size.
    Then the mean of all looks that find it is its outline; one that finds nothing says nothing about that.
    """
    finding = [look for look in looks if look.max() > DEFAULT_THRESHOLD]
    return torch.stack(finding).mean(dim=0) if looks[0].max() > DEFAULT_THRESHOLD else looks[0]


def check_framing(framing: str) -> str:
    """Return the framing, or raise ValueError when it is neither "auto" nor "none"."""
    if framing not in FRAMINGS:
        raise ValueError(f"framing is {framing!r}; allowed are {', '.join(FRAMINGS)}.")
    return framing


def check_channels(config: UNetConfig, image_processor: UNetImageProcessor):
    """Raise a ValueError for a processor that does not prepare what the model takes."""
    taken = config.channels if config.num_channels > 1 else ["grey values"]
    prepared = list(image_processor.channel_names or ["grey values"])
    if taken != prepared:
        raise ValueError(
            f"the model takes {', '.join(taken)} as its channels, and the image processor prepares "
            f"{', '.join(prepared)}; give config.json and preprocessor_config.json the same `channel_names`."
        )


def check_one_channel(channel_names: Sequence[str], what: str):
    """Raise a ValueError for a model of several channels where there can be one; arguments as in `check_one_class`."""
    if channel_names:
        count = len(channel_names)
        raise ValueError(
            f"{what} are for models of one channel; this one takes {count} ({', '.join(channel_names)}): give "
            f"TumorSegmenter a list of {count} pictures for each slice, or an array [{count}, height, width]."
        )


def check_one_class(class_names: Sequence[str], what: str):
    """Raise a ValueError for a model of several classes where there can be one.

    Args:
        class_names: of the model.
        what: what is for one class alone, as the beginning of a sentence in the plural.
    """
    if len(class_names) > 1:
        raise ValueError(
            f"{what} are for models of one class; this one has {len(class_names)} ({', '.join(class_names)})."
        )


@contextmanager
def loading(path_or_id: str | Path) -> Iterator[None]:
    """Turn the many errors of a failed load into one type, with a message that names the model."""
    place = "the folder" if Path(path_or_id).is_dir() else "the Hub, as there is no such folder"
    try:
        yield
    except (ImportError, OSError, RuntimeError, SafetensorError, StrictDataclassError, ValueError) as error:
        # What a strict dataclass says of itself is no help; what one of its checks says is.
        reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        raise OSError(f"cannot load {path_or_id} from {place}: {reason}") from error
    # Whatever transformers stumbles over in a JSON file that holds other things than it should.
    except Exception as error:
        raise OSError(
            f"cannot load {path_or_id} from {place}: config.json, preprocessor_config.json or the index of the weights "
            f"is damaged ({type(error).__name__}: {error})."
        ) from error


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn "auto" into the fastest device of this machine, and refuse a device that it does not have.

    Raises:
        ValueError: the device is unknown or not available; the message lists those that are.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [name for name, present in available.items() if present]
    if device == "auto":
        return torch.device(names[0])
    if str(device).partition(":")[0] not in names:
        raise ValueError(f"device is {str(device)!r}; allowed on this machine are auto, {', '.join(names)}.")
    return torch.device(device)
