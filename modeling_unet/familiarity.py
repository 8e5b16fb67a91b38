"""How much a picture is like the slices that a network learned from, by the network's own view of it.

    encoder maps of the pass that gives the mask ─ pool ─→ features ─ distance ─→ against held-out slices ─→ 0 … 1

The distance is Mahalanobis' from the training slices (Lee et al. 2018, arXiv:1807.03888). Its mean, its covariance and
the distances of slices that took no part in them lie beside the weights; `python -m train calibrate` fits them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.utils import cached_file

from .configuration_unet import UNetConfig
from .files import write_atomically


FAMILIARITY_FILE = "familiarity.safetensors"
# Of the held-out slices so many are less familiar; a picture that is so too is unlike them.
UNFAMILIAR = 0.01
FOREGROUND = 0.1  # of the range of grey values: what is darker is the black around a head


@dataclass(frozen=True)
class Familiarity:
    """What is known of the slices that a network learned from.

    Attributes:
        mean: of their features, float32 [D].
        precision: inverse of the covariance of their features, float32 [D, D].
        distances: of held-out slices from them, float32 [N], in rising order.
    """

    mean: Tensor
    precision: Tensor
    distances: Tensor

    def __post_init__(self):
        shapes = [tuple(part.shape) for part in (self.mean, self.precision, self.distances)]
        features, count = self.mean.numel(), self.distances.numel()
        if shapes != [(features,), (features, features), (count,)] or not features or not count:
            raise ValueError(f"{FAMILIARITY_FILE} holds tensors of shapes {shapes}; allowed are [D], [D, D] and [N].")

    @classmethod
    def fit(cls, training: Tensor, held_out: Tensor) -> "Familiarity":
        """From the features of training slices, [M, D], and of slices of other persons, [N, D].

        Raises:
            ValueError: the training slices are all the same, or there are no others.
        """
        mean = training.double().mean(dim=0)
        covariance = shrunk_covariance(training.double() - mean)
        if not covariance.any() or not len(held_out):
            raise ValueError("Familiarity needs training slices that differ, and slices of other persons.")
        precision = torch.linalg.inv(covariance)
        fitted = cls(mean.float(), precision.float(), torch.zeros(1))
        return cls(fitted.mean, fitted.precision, fitted.distance(held_out).sort().values)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, revision: str | None = None) -> "Familiarity | None":
        """What lies beside the weights in a folder or on the Hub, or None.

        Raises:
            ValueError, SafetensorError: the file is damaged.
        """
        path = cached_file(
            str(path_or_id), FAMILIARITY_FILE, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        if path is None:
            return None
        tensors = load_file(path)
        if missing := sorted(cls.__dataclass_fields__.keys() - tensors.keys()):
            raise ValueError(f"{FAMILIARITY_FILE} is damaged; missing are {', '.join(missing)}.")
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})

    def save_pretrained(self, folder: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Write it beside the weights."""
        tensors = {name: getattr(self, name).contiguous() for name in self.__dataclass_fields__}
        write_atomically(Path(folder, FAMILIARITY_FILE), save(tensors, metadata))

    def check_fits(self, config: UNetConfig) -> None:
        """Raise a ValueError where a model of that architecture has another number of features."""
        widths = list(config.skip_widths.values())
        given = sum(widths[level] for level in levels_of(config))
        if given != len(self.mean):
            raise ValueError(
                f"{FAMILIARITY_FILE} is of another model: it has {len(self.mean)} features; the model gives {given}."
            )

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis' distance from the training slices, [B, D] → float32 [B]."""
        apart = features.double().cpu() - self.mean
        return (apart @ self.precision.double() * apart).sum(dim=1).clamp(min=0).sqrt().float()

    def __call__(self, features: Tensor) -> list[float]:
        """Share of the held-out slices that lie at least as far away, [B, D] → 0 … 1 for each; not finite is 0."""
        nearer = torch.searchsorted(self.distances, self.distance(features).nan_to_num(nan=torch.inf))
        return (1 - nearer / len(self.distances)).tolist()


def levels_of(config: UNetConfig) -> list[int]:
    """Which of the encoder's maps, finest first, are looked at: those before the deepest, two at most.

    Of the maps of EfficientNet-Lite0 these two tell other pictures apart best; the deepest knows tumours, not pictures.
    """
    count = len(config.skip_widths)
    return list(range(max(count - 3, 0), max(count - 1, 1)))


def pool(pixel_values: Tensor, maps: Iterable[Tensor]) -> Tensor:
    """Mean of every channel over what is not black: [B, C, H, W] and maps [B, Dᵢ, h, w] → float32 [B, ΣDᵢ].

    How much black surrounds a head says nothing of the picture, so it does not count.
    """
    low, high = pixel_values.amin(dim=(1, 2, 3), keepdim=True), pixel_values.amax(dim=(1, 2, 3), keepdim=True)
    bright = (pixel_values > low + FOREGROUND * (high - low)).any(dim=1, keepdim=True).float()
    means = []
    for hidden_state in maps:
        height, width = hidden_state.shape[-2:]
        weight = F.adaptive_avg_pool2d(bright, (height, width))
        total = weight.sum(dim=(2, 3)).clamp(min=1e-3)
        means.append((hidden_state.float() * weight).sum(dim=(2, 3)) / total)
    return torch.cat(means, dim=1)


def shrunk_covariance(centred: Tensor) -> Tensor:
    """Of features of mean 0, float64 [M, D]: pulled towards their variances, by as much as Ledoit and Wolf (2004) say.

    Every feature counts in units of its own deviation.
    """
    deviation = centred.std(dim=0, correction=0).clamp(min=1e-6)
    scaled = centred / deviation
    count, width = scaled.shape
    covariance = scaled.T @ scaled / count
    target = covariance.trace() / width * torch.eye(width, dtype=covariance.dtype)
    apart = (covariance - target).square().sum()
    noise = scaled.square().sum(dim=1).square().sum() / count**2 - covariance.square().sum() / count
    share = (noise / apart).clamp(0, 1) if apart > 0 else apart.new_ones(())
    return ((1 - share) * covariance + share * target) * deviation * deviation[:, None]
