"""Slices and masks from any source → the arrays that the Trainer iterates over.

    source ─ scan_slices ─→ one row per slice, cached ─ folds.assign_persons ─ audit.refuse ─→ load_slices
           ─ folds.split_fold ─→ training | validation ─ prepare_slices ─→ pixel_values, labels, cached
           ─ AugmentedSlices (synthesis, augmentation) ─→ Trainer

Both caches are Arrow files of 🤗 Datasets, memory-mapped, and made anew when a file, a setting or the code changes;
`cache.checked` refuses damaged ones.
"""

import contextlib
import hashlib
import inspect
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from modeling_unet import InvalidImageError, UNetImageProcessor, read_image, read_mask
from modeling_unet.image_processing_unet import (
    COLOURS,
    IGNORE_INDEX,
    NonBinaryMaskError,
    is_coloured,
    prepare_classes,
    read_channels,
    read_labels,
    to_grayscale,
)
from modeling_unet.volumes import read_volume

from ..columns import values_of
from ..looks import look_of
from .arguments import DataArguments
from .audit import fast_findings, refuse
from .augmentation import Augmentation
from .cache import PACKED, TRIED, Held, checked, foretell, pack, say_cost, unpack
from .folds import assign_persons
from .masks import (
    BINARY,
    MAX_LABELS,
    Classes,
    MaskRule,
    advise,
    advise_colors,
    labels_of,
    read_bits,
    to_bits,
    to_planes,
)
from .raw import DETAIL_COLUMNS, DataError, Picture, RawSlice, Source, as_file, encode_png
from .sources import open_source
from .synthesis import Axis, Synthesizer, find_axis


logger = logging.getLogger(__name__)

THUMBNAIL_SIDE = 32
ROW_BYTES = 1500  # of a slice in the scan: its thumbnail and what is known of it
VOLUMES_WORTH_SAYING = 30  # fewer are read in some seconds
_PICTURE = datasets.Image(decode=False)
SCAN_FEATURES = Features(
    {
        **dict.fromkeys(("slice", *DETAIL_COLUMNS, "volume"), Value("string")),
        "image": _PICTURE,
        "mask": _PICTURE,
        **dict.fromkeys(("row_mm", "column_mm"), Value("float64")),
        **dict.fromkeys(("height", "width", "mask_area", "class_bits"), Value("int64")),
        **dict.fromkeys(("dtype", "image_sha256", "mask_sha256", "look"), Value("string")),
        **dict.fromkeys(("labels_left_out", "mask_labels"), Value("string")),
        "coloured": Value("bool"),
        "thumbnail": Value("binary"),
        **dict.fromkeys(("problem_kind", "problem"), Value("string")),
    }
)


def load_slices(arguments: DataArguments, without_folds: bool = False) -> Dataset:
    """Every slice of the source, with person and fold; raises an error for faults that would spoil a training.

    Args:
        arguments: which slices, and whose.
        without_folds: as in `assign_persons`.

    Returns:
        The rows of `scan`, with `person_id`, `tumor_type`, `plane`, `split` and `fold` as `assign_persons` gives
        them; without those that `take_share` leaves out.

    Raises:
        DataError: what is wrong, with the names of the slices.
    """
    found = scan(arguments)
    check_classes(found, arguments.tumor_classes())
    slices = assign_persons(
        found,
        arguments.persons_file(),
        arguments.num_folds,
        arguments.official_folds,
        without_folds,
        arguments.person_column,
    )
    slices = take_share(slices, arguments.negative_share)
    refuse(fast_findings(slices))
    return slices


def check_classes(slices: Dataset, classes: Classes | None) -> None:
    """Raise a `DataError` for a class that no mask has, as it could not be learned."""
    bits = int(np.bitwise_or.reduce([*values_of(slices, "class_bits")], initial=0))
    missing = [word for number, word in enumerate(classes.words if classes else ()) if not bits >> number & 1]
    if missing:
        raise DataError(f"--classes names {', '.join(missing)}, and no mask has these values.")


# ----------------------------------------------------------------------------------------------------------------- scan


def scan_slices(source: str | Path, **reading: Any) -> Dataset:
    """`scan` of a source; `reading` are fields of `ReadingArguments`."""
    return scan(DataArguments(str(source), **reading))


def scan(arguments: DataArguments) -> Dataset:
    """Read every slice of a source once and collect the facts about it; no slice is refused here.

    What was found is said before anything is read.

    Returns:
        One row per slice, in the source's order: `slice`; `image` as it lies there, of several channels as
        `read_channels` takes it, and `mask` as a 1-bit PNG, of several classes with a bit for each (`raw.as_file` opens
        both); `person_id`, `tumor_type`, `plane`, `split`, and
        the `volume` that it was cut from ("" where the source does not say); `row_mm` and `column_mm`, the size of a
        pixel, or None; `height`, `width` and `mask_area` in pixels; `class_bits`, those that the mask has; `dtype` of
        the pixels; `image_sha256` and `mask_sha256`, the first 16 hex digits over size and values; `look`, see
        `looks.look_of`; `labels_left_out`, values of the mask that threshold, labels or classes take for background;
        `mask_labels`, the values of a mask that is binary or seems to hold labels; `coloured`; `thumbnail`, the bytes
        of a uint8 [32, 32]; `problem_kind` ("", "unpaired", "repeated stem", "unreadable", "size mismatch" or "not
        binary") and `problem`, a sentence.

    Raises:
        DataError: the source as a whole cannot be used, or what is cached of it is damaged.
    """
    if (persons := arguments.persons_file()) and not persons.is_file():
        raise DataError(f"--persons {persons} is not there; give a CSV file.")
    opened = open_source(arguments.data_dir, arguments.reading())
    logger.info("%s", format_rows(opened.facts()))
    own = [path.read_bytes() for path in sorted(Path(__file__).with_name("sources").glob("*.py"))]
    code = (examine, MaskRule, encode_png, read_mask, read_volume, look_of)
    gen_kwargs = {
        "source": opened,
        "rule": arguments.mask_rule(),
        "channel": arguments.image_channel,
        "channels": tuple(arguments.sequences or ()),
        "cache_key": (opened.stamp(), own, *map(_code_of, code)),
    }
    with _no_progress_bar_of_datasets():
        try:
            return checked(lambda: Dataset.from_generator(_examined, features=SCAN_FEATURES, gen_kwargs=gen_kwargs))
        except DatasetGenerationError as error:  # Datasets wraps whatever stopped it, such as a full disk
            raise error.__cause__ or error from None


def _examined(
    source: Source, rule: MaskRule, channel: str | None, channels: tuple[str, ...], cache_key: tuple
) -> Iterator[dict]:
    unit = source.unit
    tried = (source.slices([part]) for part in islice(source.parts(), TRIED))
    sizes = (sum(_stored(examine(raw, rule, channel, channels)) for raw in part) for part in tried)
    worth_saying = None if unit == "slice" else VOLUMES_WORTH_SAYING
    foretell("Reading", len(source), f"{unit}s, once", sizes, worth_saying=worth_saying)
    # As a context, the bar is closed, and its line ended, before an error is printed.
    with tqdm(source.parts(), total=len(source), desc=f"Reading {unit}s", unit=unit) as progress:
        for raw in source.slices(progress):
            yield examine(raw, rule, channel, channels)


def _stored(row: dict) -> int:
    """Bytes of a row of the scan: what is no file of the source, and some hundred of facts."""
    return ROW_BYTES + sum(len(row[name]["bytes"] or b"") for name in ("image", "mask") if row[name])


def examine(raw: RawSlice, rule: MaskRule = BINARY, channel: str | None = None, channels: tuple[str, ...] = ()) -> dict:
    """One row of the scan.

    Args:
        raw: the slice.
        rule: tells what is tumour.
        channel: which one of a coloured image is taken.
        channels: names of those that a slice has, if there are several.
    """
    row_mm, column_mm = raw.spacing or (None, None)
    row = {
        **{name: getattr(raw, name) for name in ("slice", "image", "mask", *DETAIL_COLUMNS, "volume")},
        "row_mm": row_mm,
        "column_mm": column_mm,
        **dict.fromkeys(("height", "width", "mask_area", "class_bits"), 0),
        **dict.fromkeys(("dtype", "image_sha256", "mask_sha256", "look", "labels_left_out", "mask_labels"), ""),
        "coloured": False,
        "thumbnail": b"",
        "problem_kind": raw.problem_kind,
        "problem": raw.problem,
    }
    if raw.problem:
        return row
    assert raw.image is not None  # or that would be the problem
    try:
        if channels:
            planes = read_channels(as_file(raw.image), channels)
            image = planes[0]
            row.update(_image_facts(image))
            row["image_sha256"] = _pixel_hash(image.shape, planes.astype(np.float32).tobytes())
        else:
            image = read_image(as_file(raw.image))
            if channel is not None and image.ndim == 3:
                image = image[..., COLOURS.index(channel)]
                row["image"] = {"path": f"{raw.slice}.png", "bytes": encode_png(image)}
            row.update(_image_facts(image))
        mask = rule.read(as_file(raw.mask)) if raw.mask else np.zeros(image.shape[:2], bool)
        row.update(_mask_facts(mask, raw.slice))
        row["look"] = look_of(np.frombuffer(row["thumbnail"], np.uint8).reshape(THUMBNAIL_SIDE, -1), mask > 0)
        if raw.mask and rule == BINARY and mask.any():
            row["mask_labels"] = f"0 {read_labels(as_file(raw.mask)).max():g}"
        if raw.mask and rule.threshold is not None:
            row["labels_left_out"] = _labels_left_out(raw.mask, mask, rule.threshold)
        if raw.mask and (left_out := rule.left_out(as_file(raw.mask))):
            row["labels_left_out"] = ", ".join(f"{label:g}" for label in left_out[:MAX_LABELS])
    except NonBinaryMaskError as error:
        assert raw.mask is not None  # which it is about
        labels = [] if error.values is None else labels_of(as_file(raw.mask))
        row |= {"problem_kind": "not binary", "mask_labels": " ".join(f"{label:g}" for label in labels)}
        if labels:  # advice depends on what the other masks hold
            return row | {"problem": str(error)}
        advice = (advise_colors if error.values is None else advise)(as_file(raw.mask))
        return row | {"problem": f"{str(error).rstrip('.')}; {advice}."}
    except InvalidImageError as error:
        return row | {"problem_kind": "unreadable", "problem": str(error)}
    if mask.shape != image.shape[:2]:
        problem = (
            f"The mask of {raw.slice} has {mask.shape[1]} × {mask.shape[0]} pixels and its image {row['width']} × "
            f"{row['height']}; they must be of one size."
        )
        return row | {"problem_kind": "size mismatch", "problem": problem}
    return row


def _labels_left_out(picture: Picture, mask: np.ndarray, threshold: float) -> str:
    """The labels of a picture, but for the lowest, that do not lie above the threshold, by which it gives this mask."""
    try:
        whole = read_mask(as_file(picture))
    except NonBinaryMaskError as error:
        assert error.values is not None  # a mask in colours has no threshold
        labels = error.values[1:] if len(error.values) <= MAX_LABELS else ()
        return ", ".join(f"{label:g}" for label in labels if label <= threshold)
    return "all" if whole.any() and not mask.any() else ""


def _image_facts(image: np.ndarray) -> dict:
    grey = to_grayscale(image)
    height, width = grey.shape
    return {
        "height": height,
        "width": width,
        "dtype": image.dtype.name,
        "coloured": is_coloured(image),
        "image_sha256": _pixel_hash(grey.shape, grey.tobytes()),
        "thumbnail": _thumbnail(grey).tobytes(),
    }


def _mask_facts(mask: np.ndarray, name: str) -> dict:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return {
        "mask": {"path": f"{name}.png", "bytes": file.getvalue()},
        "mask_area": int(np.count_nonzero(mask)),
        "class_bits": int(np.bitwise_or.reduce(mask, axis=None)),
        "mask_sha256": mask_hash(mask),
    }


def mask_hash(mask: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 over a mask's size and bits; the same for every file format that holds it.

    Args:
        mask: bool [H, W], or uint8 of a bit for each of several classes.
    """
    return _pixel_hash(mask.shape, np.packbits(mask).tobytes() if mask.dtype == np.bool_ else mask.tobytes())


def _pixel_hash(shape: tuple[int, int], values: bytes) -> str:
    height, width = shape
    return hashlib.sha256(f"{height}x{width}:".encode() + values).hexdigest()[:16]


def _thumbnail(grey: np.ndarray) -> np.ndarray:
    """uint8 [32, 32]: area means, stretched to 0…255."""
    small = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    low, high = small.min(), small.max()
    return ((small - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)


def format_rows(rows: dict[str, str]) -> str:
    """A table of two columns for a terminal."""
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in rows.items())


def take_share(slices: Dataset, negative_share: float | None) -> Dataset:
    """Leave out slices without tumour until they are this share, evenly over persons, and always the same ones.

    Blank slices of volumes, which lie beside the head, are left out in any case. Slices with a fault stay.

    Args:
        slices: the scan, after `assign_persons`.
        negative_share: of all slices that stay; None keeps all.
    """
    names = ("slice", "person_id", "mask_area", "problem_kind")
    columns = zip(*(values_of(slices, name) for name in names), strict=True)
    shown = map(any, values_of(slices, "thumbnail"))
    rows = list(zip(columns, values_of(slices, "volume"), shown, strict=True))
    blank, negatives, stay = 0, [], []
    for index, ((name, person, area, kind), volume, is_shown) in enumerate(rows):
        if area or kind:
            stay.append(index)
        elif volume and not is_shown:
            blank += 1
        else:
            negatives.append((hashlib.sha256(name.encode()).digest(), person, index))
    with_tumor = sum(1 for index in stay if not rows[index][0][3])
    taken = _spread_over_persons(negatives)
    if negative_share is not None:
        taken = taken[: round(with_tumor * negative_share / (1 - negative_share))]
    if with_tumor and (blank or negative_share is not None):
        logger.info(
            "%d slices show tumour, %d of the %d without are taken%s.",
            *(with_tumor, len(taken), len(negatives)),
            f"; {blank} blank ones, beside the head, are left out" if blank else "",
        )
    return slices.select(sorted([*stay, *taken])) if len(stay) + len(taken) < len(slices) else slices


def _spread_over_persons(negatives: list[tuple[bytes, str, int]]) -> list[int]:
    """Indices in an order of which every beginning holds about equally many slices of each person."""
    turns: Counter[str] = Counter()
    order = []
    for digest, person, index in sorted(negatives):
        order.append((turns[person], digest, index))
        turns[person] += 1
    return [index for _, _, index in sorted(order)]


def content_hash(slices: Dataset, in_order: bool = False) -> str:
    """SHA-256 over the pixels of all slices and masks, in hexadecimal; in whatever order they come, or in this one."""
    hashes = (values_of(slices, name) for name in ("image_sha256", "mask_sha256"))
    parts = list(map("".join, zip(*hashes, strict=True)))
    return hashlib.sha256("".join(parts if in_order else sorted(parts)).encode()).hexdigest()


def _code_of(function) -> bytes:
    """The source file of a function, so that a cache does not outlive a change of the code that filled it."""
    return Path(inspect.getfile(function)).read_bytes()


@contextlib.contextmanager
def _no_progress_bar_of_datasets() -> Iterator[None]:
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


# ----------------------------------------------------------------------------------------------- what the Trainer reads


def prepare_slices(
    slices: Dataset, processor: UNetImageProcessor, count: int = 1, num_proc: int | None = None
) -> Dataset:
    """Run the processor over all slices, once: a memory-mapped Arrow file in the `datasets` cache.

    Args:
        slices, processor: of the data set, and of the model.
        count: of classes.

    Returns:
        `pixel_values` float32 [C, S, S] and `labels` uint8 [S, S] (0, 1, of several classes a bit for each; 255 =
        padding), as NumPy arrays, kept by `cache.pack`. The cache is keyed by the pixels of the slices and masks, by
        the number of classes, and by the processor's settings and code, not by the number of processes.
    """
    key: list[Any] = [content_hash(slices, in_order=True), processor.to_dict()]
    key += [_code_of(_prepare), _code_of(UNetImageProcessor), *([count] if count > 1 else [])]
    fingerprint = Hasher.hash([*key, _code_of(pack)])
    how = {"features": PACKED, "new_fingerprint": fingerprint, "desc": "Preparing slices", "num_proc": num_proc}
    pictures = slices.select_columns(["image", "mask"])
    prepare = partial(_packed, processor=processor, count=count, is_alone=num_proc is None)
    say_cost(pictures, fingerprint, partial(_packed, processor=processor, count=count), num_proc)
    prepared = checked(lambda: pictures.map(prepare, remove_columns=pictures.column_names, **how))
    return prepared.with_transform(unpack)


def _packed(row: dict, processor: UNetImageProcessor, count: int, is_alone: bool = True) -> dict:
    if not is_alone:
        torch.set_num_threads(1)  # threads of a process whose parent had threads before may wait for ever
    return pack(**_prepare(row, processor, count))


def _prepare(row: dict, processor: UNetImageProcessor, count: int) -> dict:
    if count == 1:
        batch = processor.preprocess(as_file(row["image"]), as_file(row["mask"]), return_tensors="np")
        return {"pixel_values": batch["pixel_values"][0], "labels": batch["labels"][0].astype(np.uint8)}
    pixel_values = processor.preprocess(as_file(row["image"]), return_tensors="np")["pixel_values"][0]
    planes = to_planes(read_bits(as_file(row["mask"])), count).astype(bool)
    prepared = prepare_classes(planes, processor.size["longest_edge"])
    labels = np.where(prepared[0] == IGNORE_INDEX, IGNORE_INDEX, to_bits(prepared & 1))
    return {"pixel_values": pixel_values, "labels": labels.astype(np.uint8)}


def find_axes(prepared: Dataset, num_proc: int | None = None) -> list[Axis]:
    """Line of symmetry of every prepared slice; kept in the `datasets` cache."""
    features = Features(dict.fromkeys(Axis._fields, Value("float64")))
    how = {"fn_kwargs": {"cache_key": _code_of(find_axis)}, "features": features}
    how |= {"desc": "Looking for lines of symmetry", "num_proc": num_proc}
    found = checked(lambda: prepared.map(_axis, remove_columns=prepared.column_names, **how))
    return [Axis(**row) for row in found.with_format(None)]


def _axis(row: dict, cache_key: bytes) -> dict[str, float]:
    return find_axis(row["pixel_values"][0], row["labels"])._asdict()


class AugmentedSlices(TorchDataset):
    """Prepared slices, augmented anew in every epoch.

    The random numbers of a sample follow from (seed, epoch, index) alone: they differ between epochs and samples, and
    are the same whatever the number of workers, and after a resume.

    Args:
        prepared: the slices.
        augmentation, synthesizer: what changes them; None leaves them as they are.
        seed: of all random numbers.
        always: how many of the first ones every epoch takes; None takes all.
        drawn: how many of the others an epoch takes besides, at random and anew in each.
        as_labels: turns the bits of several classes into the labels that the model takes, at the end.
    """

    def __init__(
        self,
        prepared: Dataset | Held,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        synthesizer: Synthesizer | None = None,
        always: int | None = None,
        drawn: int = 0,
        as_labels: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.prepared = prepared
        self.augmentation = augmentation
        self.synthesizer = synthesizer
        self.as_labels = as_labels
        self.seed = seed
        self.always = len(prepared) if always is None else always
        self.drawn = drawn
        # In shared memory, so that workers which outlive an epoch learn of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.always + self.drawn

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch.item(), int(index)))
        if index >= self.always:
            index = int(rng.integers(self.always, len(self.prepared)))
        if self.synthesizer is not None:
            pixel_values, labels = self.synthesizer(int(index), rng)
        else:
            sample = self.prepared[int(index)]
            pixel_values, labels = sample["pixel_values"], sample["labels"]
        if self.augmentation is not None:
            pixel_values, labels = self.augmentation(pixel_values, labels, rng)
        if self.as_labels is not None:
            labels = self.as_labels(labels)
        return {"pixel_values": pixel_values, "labels": labels}
