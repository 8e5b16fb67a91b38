"""Volumes that belong together: the channels of one scan, or a scan and its mask, on one grid."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from .nifti import UNKNOWN_SEQUENCE
from .scan import VolumeError
from .volume import Volume, read_volume


MAX_BESIDE = 0.5  # of a voxel, by which one may lie beside the other


class GridError(VolumeError):
    """A volume that does not lie on another one."""


def read_channels(files: Sequence[Path], numbers: Sequence[int] = ()) -> Volume:
    """Read the channels of one scan.

    Args:
        files: one for each channel, in the order of the channels.
        numbers: of files that hold several volumes which one is the channel, from 1; none for the first of each.

    Returns:
        The first channel, with the other ones as its `others`.

    Raises:
        GridError: their voxels are not the same.
        ArchiveError, VolumeError: as by `read_volume`, for one of them.
    """
    first, *others = [read_volume(*which) for which in zip_longest(files, numbers[: len(files)])]
    for file, other in zip(files[1:], others, strict=True):
        check_grid(files[0], file, first, other, "channel")
    # Whoever lists the channels knows which sequences they are.
    said = dict.fromkeys(text for one in (first, *others) for text in one.warnings if text != UNKNOWN_SEQUENCE)
    return replace(first, warnings=tuple(said), others=tuple(others)) if others else first


def shown(path: Path) -> str:
    """What to call a file in a message: images and masks often differ by their folders alone."""
    return f"{path.parent.name}/{path.name}"


def check_grid(file: Path, other_file: Path, volume: Volume, other: Volume, what: str):
    """Raise a `GridError` unless another volume has the voxels of a volume at the same places.

    Args:
        file, other_file: where they come from.
        volume, other: as `read_volume` gives them.
        what: what to call the other one.
    """
    size, other_size = volume.size, other.size
    if size != other_size:
        needed, written = (" × ".join(map(str, shape)) for shape in (size, other_size))
        raise GridError(
            f"The {what} {shown(other_file)} has {written} voxels and {shown(file)} {needed}; they must be of one size."
        )
    first, second = volume.grid, other.grid
    corners = np.array([[i, j, k, 1] for i in (0, size[0]) for j in (0, size[1]) for k in (0, (*size, 1)[2])])
    beside = np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max()
    smallest = np.linalg.norm(first[:3, :3], axis=0).min()
    if beside > MAX_BESIDE * smallest or volume.slices.shape != other.slices.shape or volume.plane != other.plane:
        raise GridError(
            f"The {what} {shown(other_file)} lies up to {beside:.3g} mm beside {shown(file)}, by their headers; if its "
            "voxels belong to those of the image one by one, save it with its affine, else resample it onto that image."
        )
