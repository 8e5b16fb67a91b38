"""DICOM: the files of one or several series → one `Scan`, its slices in the order in which they lie in the patient.

Messages count files instead of naming them, because archives name them by UIDs and persons.
"""

import numpy as np

from ..archives import ArchiveError
from ..nifti import geometry_of
from ..scan import File, Scan, VolumeError, check_affine, check_size, file_size, read_file
from .apart import Apart
from .grid import Grid, lay_out
from .pixels import decode
from .sequence import choose, find_stacks
from .tags import (
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_ITEMS_OF_ALL,
    MORE_ITEMS_PER_FILE,
    Frame,
    Image,
    count_items,
    read_frames,
    read_header,
    unpacked,
)


def read_dicom(files: list[File], stack: int | None = None) -> Scan:
    """Read one stack of the slices that the files hold.

    Args:
        files: of any series; what holds no slice is passed over, and a damaged one is warned of.
        stack: its number, counted from 1 in the order in which the files name the stacks; None for the best one, by
            what the tags say of it.

    Raises:
        VolumeError: no images, damaged or missing tags, over a limit, coloured, or compressed in a way that is not
            decoded; or no stack of this number.
    """
    images, refused = _read_headers(files)
    frames: list[Frame] = []
    for image in images:
        try:
            frames += read_frames(image)
        except VolumeError as error:
            refused.append(error)
    if not frames:
        raise refused[0] if refused else VolumeError("The DICOM files hold no images.")
    stacks = find_stacks(frames)
    chosen, others = choose(stacks, stack)
    grid, first = lay_out(chosen.frames), chosen.frames[0]
    check_size((first.shape[1], first.shape[0], grid.count), np.dtype(np.float32).itemsize, "The DICOM series")
    check_affine(grid.affine, "The DICOM series")
    slices, missing, undecoded = _read_slices(chosen.frames, grid)
    refused += undecoded
    placed = {slot: (frame.image.file, frame.index) for frame, slot in grid.slots.items()}

    warnings = [first.protocol.warning, others, *chosen.warnings, *grid.warnings]
    if refused:
        warnings.append(f"{len(refused)} of {len(files)} files were left out: {refused[0]}")
    oriented, spacing_known = first.orientation is not None, first.spacing is not None
    if not oriented:
        warnings.append("The tags do not say how the patient lies; the slices are shown as they are stored.")
    if not spacing_known:
        warnings.append("The tags do not say how large pixels are; nothing can be measured in mm.")
    header, aslant = geometry_of(grid.affine, slices.T.shape, oriented)
    warnings.append(aslant)
    return Scan(
        voxels=slices.T,
        affine=grid.affine,
        header=header,
        slice_axis=2,
        stacks=tuple(one.words for one in stacks) if len(stacks) > 1 else (),
        stack=stacks.index(chosen) + 1,
        missing=missing,
        frames=tuple(None if slot in missing else placed[slot] for slot in range(grid.count)),
        oriented=oriented,
        spacing_known=spacing_known,
        slice_spacing_known=grid.gap_known,
        warnings=tuple(filter(None, warnings)),
    )


def _read_headers(files: list[File]) -> tuple[list[Image], list[VolumeError]]:
    """The images in the files, and why others cannot be used."""
    images: list[Image] = []
    refused: list[VolumeError] = []
    items_left = MAX_ITEMS_OF_ALL + MORE_ITEMS_PER_FILE * len(files)
    for number, file in enumerate(files, start=1):
        label = "The DICOM file" if len(files) == 1 else f"DICOM file {number} of {len(files)}"
        try:
            raw = read_file(file, MAX_HEADER_BYTES)
            head = unpacked(raw, MAX_HEADER_BYTES, label)
            items_left -= count_items(head)
            length = file_size(file) if head is raw else None
            images += read_header(file, head, length, label) if items_left >= 0 else []
        except VolumeError as error:
            refused.append(error)
        except ArchiveError:
            refused.append(VolumeError(f"{label} is damaged and cannot be unpacked."))
    if items_left < 0:
        raise VolumeError(f"The {len(files):,} DICOM files have too many items in their tags; they are damaged.")
    if (claimed := sum(image.count for image in images)) > MAX_FRAMES:
        raise VolumeError(f"The DICOM files claim {claimed:,} slices together; at most {MAX_FRAMES:,} are accepted.")
    return images, refused


def _read_slices(frames: list[Frame], grid: Grid) -> tuple[np.ndarray, tuple[int, ...], list[VolumeError]]:
    """Slices, float32 [N, H, W]; the numbers of the missing ones, which are 0; and why files cannot be decoded."""
    slices = np.zeros((grid.count, *frames[0].shape), np.float32)
    read: set[int] = set()
    refused: list[VolumeError] = []
    by_image: dict[Image, list[Frame]] = {}
    for frame in frames:
        by_image.setdefault(frame.image, []).append(frame)
    with Apart() as apart:
        for image, own in by_image.items():
            try:
                for frame, values in decode(image, own, apart):
                    slices[grid.slots[frame]] = values
                    read.add(grid.slots[frame])
            except VolumeError as error:
                refused.append(error)
    if not read:
        raise refused[0]
    missing = sorted({*range(grid.count)} - read)
    if frames[0].inverted:
        np.subtract(max(slices[slot].max() for slot in read), slices, out=slices)
        slices[missing] = 0
    return slices, tuple(missing), refused
