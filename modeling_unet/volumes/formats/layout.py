"""What a header says of the voxels behind it → `Scan`; nothing is read that the limits do not allow."""

from dataclasses import dataclass

import numpy as np

from ..gzipped import read_voxels
from ..nifti import MAX_VOLUMES, geometry_of
from ..scan import Scan, VolumeError, check_affine, check_size, named_volumes, pick


UNKNOWN_SEQUENCE = "The file does not say which sequence it is: the network knows T1-weighted MR with contrast alone."
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from axes towards left and posterior, as ITK has them, and back
MAX_TEXT_BYTES = 1 << 20  # of a header of lines


@dataclass(frozen=True)
class Layout:
    """Where the voxels of a file are, and how they lie in the patient.

    Attributes:
        shape: (I, J, K) of one volume.
        dtype: of a voxel, with its order of bytes.
        affine: float64 [4, 4], as in `Scan`.
        offset: number of bytes before the first voxel, once unpacked.
        form: in which zlib knows that the voxels are packed; None asks the file.
        volumes: how many there are.
        volumes_first: whether they change faster than any axis of space, and not slower.
        oriented, spacing_known: as in `Scan`.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: np.ndarray
    offset: int = 0
    form: int | None = None
    volumes: int = 1
    volumes_first: bool = False
    oriented: bool = True
    spacing_known: bool = True


def read_layout(layout: Layout, content: bytes, name: str, stack: int | None) -> Scan:
    """Read one volume of a file.

    Args:
        content: bytes of the file that holds the voxels.
        name: what to call it in a message.
        stack: which volume of several, counted from 1; None for the first.

    Raises:
        VolumeError: damaged, over a limit, or no such volume.
    """
    count, shape, dtype = layout.volumes, layout.shape, layout.dtype
    if not 1 <= count <= MAX_VOLUMES:
        raise VolumeError(f"{name}: the file claims {count:,} volumes; allowed are 1 to {MAX_VOLUMES:,}.")
    index, said_which = pick(count, stack, name)
    together = count if layout.volumes_first else 1
    check_size(shape, dtype.itemsize * together, name)
    check_affine(layout.affine, name)
    if together > 1:
        voxels = read_voxels(content, layout.offset, (count, *shape), dtype, name, form=layout.form)[index]
    else:
        voxels = read_voxels(content, layout.offset, shape, dtype, name, index, layout.form)
    header, aslant = geometry_of(layout.affine, shape, layout.oriented)
    return Scan(
        voxels=voxels,
        affine=layout.affine,
        header=header,
        oriented=layout.oriented,
        spacing_known=layout.spacing_known,
        slice_spacing_known=layout.spacing_known,
        stacks=named_volumes(count),
        stack=index + 1,
        warnings=tuple(filter(None, (UNKNOWN_SEQUENCE, said_which, aslant))),
    )


def numbers(text: str, name: str, field: str, count: int | None = None) -> list[float]:
    """The finite numbers in a field of a header of lines; a `VolumeError` for anything else."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or not np.isfinite(found).all() or count not in (None, len(found)):
        wanted = "finite numbers" if count is None else f"{count} finite numbers"
        raise VolumeError(f"{name}: the header is damaged; {field} needs {wanted}.")
    return found


def whole_numbers(text: str, name: str, field: str, count: int | None = None) -> list[int]:
    """The same for numbers from 0 that are whole."""
    found = numbers(text, name, field, count)
    if any(number < 0 or number != int(number) for number in found):
        raise VolumeError(f"{name}: the header is damaged; {field} needs whole numbers from 0.")
    return [int(number) for number in found]
