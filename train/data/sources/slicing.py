"""NIfTI volumes → slices, as the network and whoever looks at them know them; their masks are cut the same way.

Slices of whole numbers keep their values. Of others each is stretched over 16 bits, from 0 or its lowest value to its
highest: the network sees every slice by its own mean and deviation, far below which such a step is.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_unet.image_processing_unet import MIN_SIDE
from modeling_unet.volumes import Volume, VolumeError, read_volume
from modeling_unet.volumes.channels import GridError, check_grid, read_channels, shown
from modeling_unet.volumes.volume import DISPLAY, UNKNOWN_PLANE

from ..raw import Picture, RawSlice, encode_png, joined


try:
    import nibabel as nib
except ImportError:
    nib = None  # type: ignore[assignment] # `read_volume` says so

PLANES = ("axial", "coronal", "sagittal")
MAX_VALUE = 65535
MAX_STRETCH = 2.0  # of a pixel's sides
MOST_SIZES = 3  # of voxels that are named


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz")) and not path.name.startswith(".")


def cut(
    raw: RawSlice, images: Sequence[Path], mask: Path | None, planes: Sequence[str], numbers: Sequence[int] = ()
) -> Iterator[RawSlice]:
    """The slices of a volume, plane by plane; one slice with a problem if it cannot be cut.

    Args:
        raw: what is known of all of them; `slice` is the volume's name.
        images: the volume, or one for each channel, all on one grid.
        mask: on the same grid; None if there is no tumour.
        planes: of `PLANES`; none for the one in which the slices were taken.
        numbers: of the volume of each channel in a file of several, from 1.
    """
    try:
        volume = read_channels(images, numbers)
        channels = (volume, *volume.others)
        for path, channel in zip(images, channels, strict=True):
            if (count := len(channel.stacks)) and not numbers:
                raise VolumeError(
                    f"{shown(path)} holds {count} volumes; say with --sequence which one to read, 1 to {count}."
                )
        labels = None
        if mask:
            labels = read_volume(mask)
            if labels.stacks:
                raise VolumeError(
                    f"The mask {shown(mask)} holds {len(labels.stacks)} volumes; a mask is one, with a value for each "
                    "label."
                )
            check_grid(images[0], mask, volume, labels, "mask")
        for plane in planes or (volume.plane,):
            yield from _slices(raw, channels, labels, plane)
    except VolumeError as error:
        kind = "size mismatch" if isinstance(error, GridError) else "unreadable"
        yield replace(raw, image=None, mask=None, problem_kind=kind, problem=str(error))


def facts_of(volumes: Sequence[Path], planes: Sequence[str]) -> dict[str, str]:
    """Rows of the table: into which planes volumes are cut, and what their headers say of them."""
    facts = {"planes": ", ".join(planes) or "as the slices were taken"}
    if nib is None:
        return facts
    sizes: Counter[str] = Counter()
    thick, turned = 0, 0
    for path in volumes:
        try:
            header: Any = nib.load(path).header  # typed as what all formats have
            zooms = [float(size) for size in header.get_zooms()[:3]]
            is_placed = header["qform_code"] > 0 or header["sform_code"] > 0
        # nibabel raises any kind of error for a damaged file, which is named when it is read.
        except Exception:
            continue
        sizes[" × ".join(f"{size:.3g}" for size in zooms)] += 1
        thick += max(zooms) > MAX_STRETCH * min(zooms)
        turned += not is_placed
    named = [f"{size} mm ({count:,})" for size, count in sizes.most_common(MOST_SIZES)]
    more = len(sizes) - len(named)
    facts["voxels"] = ", ".join([*named, *([f"{more:,} more sizes"] if more else [])])
    if thick and planes:
        facts["planes"] += (
            f"; the voxels of {thick:,} volumes are more than twice as long as wide, and slices across them squeezed"
        )
    if turned:
        facts["lying"] = f"{turned:,} volumes do not say how the patient lies: their slices may be turned or mirrored"
    return facts


def _slices(raw: RawSlice, channels: Sequence[Volume], labels: Volume | None, plane: str) -> Iterator[RawSlice]:
    spacing = _in_plane(channels[0], plane, raw.slice)[1]
    slices = [_in_plane(volume, plane, raw.slice)[0] for volume in channels]
    masks = None if labels is None else _in_plane(labels, plane, raw.slice)[0]
    known = "" if plane == UNKNOWN_PLANE else plane
    for index, values in enumerate(zip(*slices, strict=True)):
        name = f"{raw.slice}-{known or 'slice'}-{index + 1:03d}"
        yield replace(
            raw,
            slice=name,
            image=_image(name, [_levels(of_channel) for of_channel in values]),
            mask=None if masks is None else _picture(name, _encode_labels(masks[index])),
            plane=known or raw.plane,
            volume=raw.slice,
            spacing=spacing,
        )


def _in_plane(volume: Volume, plane: str, name: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """The slices [N, H, W] of another plane, and the size of their pixels in mm as (row, column)."""
    if plane == volume.plane:
        return volume.slices, volume.spacing
    if volume.plane == UNKNOWN_PLANE:
        raise VolumeError(
            f"{name} does not say how the patient lies, so which of its slices are {plane} is not known; leave "
            "--planes out, or this volume."
        )
    turn = nib.orientations.ornt_transform(
        *(nib.orientations.axcodes2ornt(DISPLAY[which]) for which in (volume.plane, plane))
    )
    slices = nib.apply_orientation(volume.slices, turn)
    if min(slices.shape[1:]) < MIN_SIDE:
        height, width = slices.shape[1:]
        raise VolumeError(
            f"{name}: its {plane} slices have {width} × {height} pixels; each side needs at least {MIN_SIDE}."
        )
    if volume.spacing is None or volume.slice_spacing is None:
        return slices, None
    sizes = np.array([volume.slice_spacing, *volume.spacing])[np.argsort(turn[:, 0])]
    return slices, (float(sizes[1]), float(sizes[2]))


def _image(name: str, channels: Sequence[np.ndarray]) -> Picture:
    if len(channels) == 1:
        return _picture(name, encode_png(channels[0]))
    return joined(name, channels)


def _picture(name: str, content: bytes) -> Picture:
    return {"path": f"{name}.png", "bytes": content}


def _levels(values: np.ndarray) -> np.ndarray:
    """A slice, float32 [H, W], in whole numbers of 16 bits, from 0 or its lowest value on."""
    low, high = min(float(values.min()), 0.0), float(values.max())
    if high - low <= MAX_VALUE and (values == np.rint(values)).all():
        return (values - low).astype(np.uint16)
    stretched = (values.astype(np.float64) - low) * (MAX_VALUE / ((high - low) or 1.0))
    return np.rint(stretched).astype(np.uint16)


def _encode_labels(values: np.ndarray) -> bytes:
    """A slice of a mask, float32 [H, W]: labels as PNG, anything else as NumPy's array."""
    if values.min() >= 0 and values.max() <= MAX_VALUE and (values == np.rint(values)).all():
        return encode_png(values.astype(np.uint8 if values.max() < 256 else np.uint16))
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()
