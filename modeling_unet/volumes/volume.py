"""Volumes: NIfTI, DICOM and others → slices as the network knows them → masks → mL, and a NIfTI where the scan was.

    read_volume(source) → Volume.slices [N, H, W] → (segment every slice) → Volume.to_nifti(masks), .volume_ml(masks)

Slices lie as in the training data, which is how radiologists look at them:

| plane | rows go from … to | columns go from … to | slices go from … to |
|---|---|---|---|
| axial | anterior to posterior | the patient's right to left | inferior to superior |
| coronal | superior to inferior | the patient's right to left | posterior to anterior |
| sagittal | superior to inferior | anterior to posterior | the patient's right to left |

The slices of a DICOM series are those that were taken. A NIfTI file does not say which these were: they are taken to be
the ones whose pixels are smallest, and axial if all sides of a voxel are equal. Oblique scans count as the plane that
is nearest; they are turned and mirrored, never resampled.

Needs the packages nibabel and pydicom: `pip install nibabel pydicom`.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np

from ..image_processing_unet import IMAGE_SUFFIXES, MIN_SIDE
from .archives import ARCHIVE_SUFFIXES, ArchiveError, Member, display_name, is_archive, members
from .dicom import DICOMDIR, read_dicom, sniff_dicom, write_dicom_seg
from .formats import FORMATS, read_format, sniff_format
from .gzipped import take
from .nifti import read_nifti, sniff_nifti, write_nifti
from .scan import Companion, File, Scan, VolumeError, nib, read_file, require_packages


UNKNOWN_PLANE = "unknown"
# What lies at the end of every axis of `slices` [N, H, W]: R(ight), L(eft), A(nterior), P(osterior), S(uperior),
# I(nferior).
DISPLAY = {"sagittal": "LIP", "coronal": "AIL", "axial": "SPL"}
PLANES = tuple(DISPLAY)  # by the axis of the patient along which slices follow each other: right, anterior, superior

# By which names of files tell a volume, where their content does not; it is asked first.
VOLUME_SUFFIXES = (
    *(".nii", ".nii.gz", ".dcm", ".dcm.gz"),
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".hdr"),
    *ARCHIVE_SUFFIXES,
)
# Kinds of files that hold a whole scan, and what they are called.
NAMES = {"nifti": "NIfTI", **{name: name for name in FORMATS}}
MAX_FILES = 10_000
SNIFF_BYTES = 64 * 1024  # enough for a header that is packed behind a long file name
MAX_SKEW = 0.01  # cosine of the angle between rows and columns; less is rounding, as in the orientation of DICOM


@dataclass(frozen=True, eq=False)
class Volume:
    """The slices of one scan, as they are looked at.

    Attributes:
        slices: float32 [N, H, W] in the scan's own values; what is not finite became the lowest, or 0 if that is lower.
        plane: "axial", "coronal", "sagittal", or "unknown" if the file does not say how the patient lies.
        spacing: size of a pixel in mm as (row, column), or None if the file does not say.
        slice_spacing: distance of slices in mm, or None.
        voxel_ml: volume of a voxel in mL, or None if a spacing is unknown.
        affine: float64 [4, 4], index (slice, row, column, 1) → mm towards the patient's right, anterior and superior
            side, or None if the file does not say how the patient lies, or how large a voxel is.
        warnings: what whoever looks at the result has to know, one sentence each.
        stacks: what could have been read from the same files, in words, if there are several.
        stack: the number of what was read, counted from 1, as `read_volume` takes it.
        frames: where the slices come from, if from DICOM; see `Scan`.
        others: of several channels those behind this one, on the same grid; see `channels.read_channels`.
    """

    slices: np.ndarray = field(repr=False)
    plane: str
    spacing: tuple[float, float] | None
    slice_spacing: float | None
    voxel_ml: float | None
    affine: np.ndarray | None = field(repr=False)
    warnings: tuple[str, ...]
    stacks: tuple[str, ...]
    stack: int
    frames: tuple[tuple[File, int] | None, ...] = field(repr=False)
    _header: "nib.Nifti1Header" = field(repr=False)
    _to_scan: np.ndarray = field(repr=False)
    others: "tuple[Volume, ...]" = field(default=(), repr=False)

    @property
    def size(self) -> tuple[int, ...]:
        """(I, J, K) or (I, J) of the voxels, in the order of the file."""
        return tuple(self._header.get_data_shape()[:3])

    @property
    def grid(self) -> np.ndarray:
        """Float64 [4, 4], index (i, j, k, 1) of the file's voxels → where they lie, as far as its header says."""
        return self._header.get_best_affine()

    def volume_ml(self, masks: np.ndarray) -> float | None:
        """Volume in mL of masks, bool [N, H, W], or None if a spacing is unknown."""
        self._check(masks)
        return None if self.voxel_ml is None else int(np.count_nonzero(masks)) * self.voxel_ml

    def to_nifti(self, values: np.ndarray) -> bytes:
        """Masks, bool [N, H, W], as `.nii.gz` in the geometry of the file that was read, with the values 0 and 1.

        Labels, uint8 [N, H, W], are written as they are, and probabilities, float [N, H, W], as float32.

        Of the file's header the geometry alone is kept. Where the tags of DICOM files do not say how large pixels are
        or how the patient lies, it is 1 mm, and no orientation.
        """
        self._check(values)
        return write_nifti(nib.apply_orientation(values, self._to_scan), self._header)

    def to_dicom_seg(self, masks: np.ndarray) -> bytes:
        """Masks, bool [N, H, W], as a DICOM segmentation object that belongs to the files that were read.

        As DICOM wants it, the object names the person, as these files do.

        Raises:
            ImportError: highdicom is missing.
            VolumeError: the volume does not come from DICOM, or its files lack tags that the object needs.
        """
        self._check(masks)
        return write_dicom_seg(nib.apply_orientation(masks, self._to_scan), self.frames)

    def _check(self, values: np.ndarray):
        if values.shape != self.slices.shape:
            raise VolumeError(f"The masks have shape {values.shape}, but the slices have {self.slices.shape}.")


def read_volume(source: str | Path | list[File], stack: int | None = None) -> Volume:
    """Read the slices of one scan.

    Args:
        source: a DICOM file, or one of the formats of `NAMES`; a folder, ZIP or tar of the files of a DICOM series (or
            of one such file); or a list of such files, as paths or as `archives.members` gives them. What is of another
            kind in a folder, an archive or a list is passed over; pictures, and a damaged or empty file that may be a
            slice, are warned of.
        stack: which stack of the slices of DICOM files to read, by the number that a warning names, None for the one
            that is T1-weighted with contrast by its tags, then the finest; or which volume of a file that holds
            several, None for the first.

    Raises:
        ArchiveError: an archive that cannot be used.
        VolumeError: nibabel or pydicom is missing; or the scan cannot be used: of no known format, damaged, over
            a limit (known from the header, before voxels are read), coloured, or compressed in a way not decoded here;
            or there is no such stack. The message is one sentence, without anything that the tags say of the person.
    """
    require_packages()
    files, name = _find_files(source)
    kinds = [kind_of_file(file) for file in files]
    counts = Counter(kinds)
    several = [file for file, kind in zip(files, kinds, strict=True) if kind in NAMES]
    dicom, damaged = counts["dicom"], counts["damaged"]
    if several and len(several) + dicom > 1:
        held = [f"{counts[kind]} {called}" for kind, called in NAMES.items() if counts[kind]]
        raise VolumeError(
            f"{name}: it holds {', '.join(held)} and {dicom} DICOM files; give one such file or the files of one DICOM "
            "series."
        )
    if several:
        (file,), called = several, display_name(Path(several[0].name))
        kind, companion = str(kinds[files.index(file)]), _companion(file, files, called)
        if kind == "nifti":
            scan = read_nifti(read_file(file), called, companion, stack)
        else:
            scan = read_format(kind, read_file(file), called, companion, stack)
    elif dicom:
        called = "The DICOM series"
        # What is too damaged to tell its kind may be a slice.
        parts = [file for file, kind in zip(files, kinds, strict=True) if kind in ("dicom", "damaged")]
        if all(Path(file.name).name.lower() == DICOMDIR for file in parts):
            raise VolumeError(f"{name}: this is a table of contents; give the folder or the files that it is of.")
        scan = read_dicom(parts, stack)
    else:
        but = f", and {damaged} of its files are empty or cannot be unpacked" if damaged else ""
        allowed = ", ".join(NAMES.values())
        raise VolumeError(f"{name}: there is no scan in it{but}; allowed are {allowed} and DICOM.")
    volume = _turn(scan, called)
    pictures = sum(
        kind is None and file.name.lower().endswith(IMAGE_SUFFIXES) for file, kind in zip(files, kinds, strict=True)
    )
    if not pictures:
        return volume
    came = "1 picture that came with the scan was" if pictures == 1 else f"{pictures} pictures that came with it were"
    said = f"{came} left out; give pictures without scans to have them read."
    return replace(volume, warnings=(*volume.warnings, said))


def is_volume(source: str | Path | list[File]) -> bool:
    """Whether a source of `read_volume` holds a scan, by the first bytes of its files, not by their names."""
    try:
        return any(kind_of_file(file) not in (None, "damaged") for file in _find_files(source)[0])
    except (ArchiveError, VolumeError):
        return False


def without_suffix(path: PurePath) -> PurePath:
    """A file's path without what its name says of its kind: "a/scan.nii.gz" → "a/scan"."""
    name = path.name.lower()
    suffix = max((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), key=len, default=path.suffix)
    return path.with_name(path.name[: len(path.name) - len(suffix)] or path.name)


def _find_files(source: str | Path | list[File]) -> tuple[list[File], str]:
    """The files of a source, and what to call it in a message."""
    if isinstance(source, list):
        files, name = source, f"The {len(source)} files"
    else:
        path = Path(source)
        name = display_name(path)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        elif path.is_file():
            files = [*members(path)] if is_archive(path) else [path]
        else:
            raise VolumeError(f"{name}: there is no such file.")
    if len(files) > MAX_FILES:
        raise VolumeError(f"{name}: it holds {len(files):,} files; at most {MAX_FILES:,} are accepted.")
    return files, name


def _companion(file: File, files: list[File], name: str) -> Companion:
    """Finds the file of the voxels of a header among the files beside it; see `Companion`."""

    def read(wanted: str) -> bytes:
        place = PurePath(file.name) if isinstance(file, Member) else file
        names = [wanted] if not wanted.startswith(".") else [f"{place.stem}{end}" for end in (wanted, f"{wanted}.gz")]
        beside = [*files, *place.parent.iterdir()] if files == [file] and isinstance(place, Path) else files
        # Of files that were uploaded each lies in a folder of its own.
        named = [other for other in beside if PurePath(other.name).name in names]
        near = [other for other in named if PurePath(str(getattr(other, "parent", ""))) == place.parent] or named
        if not near:
            raise VolumeError(f"{name}: its voxels are in another file, which did not come with it; give both.")
        return read_file(near[0])

    return read


def kind_of_file(file: File) -> str | None:
    """As `kind_of`, or "damaged" for a file that is empty or cannot be unpacked."""
    try:
        head = read_file(file, SNIFF_BYTES)
    except ArchiveError:
        return "damaged"
    return kind_of(head) if head else "damaged"


def kind_of(head: bytes) -> str | None:
    """ "dicom", one of `NAMES`, or None for anything else, by the first `SNIFF_BYTES` of a file."""
    if sniff_dicom(head):
        return "dicom"
    if sniff_nifti(head):
        return "nifti"
    try:
        head = bytes(take(head, SNIFF_BYTES))
    except VolumeError:
        return None
    return "dicom" if sniff_dicom(head) else sniff_format(head)


def _turn(scan: Scan, name: str) -> Volume:
    """Turn and mirror a scan so that its slices lie as in the table above."""
    orientation = nib.io_orientation(scan.affine)
    slice_axis = _slice_axis(scan, orientation)
    plane = PLANES[int(orientation[slice_axis, 0])]
    display = nib.orientations.axcodes2ornt(DISPLAY[plane])
    to_display = nib.orientations.ornt_transform(orientation, display)
    slices, filler = _values(nib.apply_orientation(scan.voxels, to_display), scan.slope, scan.intercept)
    if min(slices.shape[1:]) < MIN_SIDE:
        height, width = slices.shape[1:]
        raise VolumeError(f"{name}: its slices have {width} × {height} pixels; each side needs at least {MIN_SIDE}.")

    # Axis n of the scan became axis `to_display[n, 0]`.
    axes = np.argsort(to_display[:, 0])
    across, row, column = scan.affine[:3, :3].T[axes]
    sizes_known = scan.spacing_known and scan.slice_spacing_known
    spacing = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    area, volume = np.linalg.norm(np.cross(row, column)), abs(np.linalg.det([across, row, column]))
    to_scan = nib.orientations.inv_ornt_aff(to_display, scan.voxels.shape)
    warnings = list(scan.warnings)
    if scan.missing:
        last = len(slices) - 1
        mirrored = to_display[slice_axis, 1] < 0
        numbers = sorted(last - number if mirrored else number for number in scan.missing)
        warnings.append(
            f"{len(numbers)} of {len(slices)} slices are missing ({_ranges(numbers)}): they are empty here, and what a "
            "tumour has in them is not measured."
        )
    if abs(cosine := np.dot(row, column) / np.prod(spacing)) > MAX_SKEW:
        warnings.append(
            f"Rows and columns of the slices meet at {np.rad2deg(np.arccos(abs(cosine))):.0f}° instead of 90°: areas "
            "and diameters in mm are not exact."
        )
    if filler is not None:
        warnings.append(f"Some values are not finite; they were taken for {filler:g}.")
    if not scan.oriented and scan.slice_axis is None:
        warnings.append("The file does not say how the patient lies; the slices may be turned or mirrored.")
    return Volume(
        slices=slices,
        plane=plane if scan.oriented else UNKNOWN_PLANE,
        spacing=spacing if scan.spacing_known else None,
        slice_spacing=float(volume / area) if scan.slice_spacing_known else None,
        voxel_ml=float(volume / 1000) if sizes_known else None,
        affine=scan.affine @ to_scan if scan.oriented and sizes_known else None,
        warnings=tuple(warnings),
        stacks=scan.stacks,
        stack=scan.stack,
        frames=scan.frames,
        _header=scan.header,
        _to_scan=nib.orientations.ornt_transform(display, orientation),
    )


def _slice_axis(scan: Scan, orientation: np.ndarray) -> int:
    """The axis of a scan along which its slices follow each other."""
    if scan.slice_axis is not None:
        return scan.slice_axis
    sizes = np.linalg.norm(scan.affine[:3, :3], axis=0).round(2)
    # Of equal sides the one that makes slices axial, then coronal.
    return max(range(3), key=lambda axis: (scan.voxels.shape[axis] == 1, sizes[axis], orientation[axis, 0]))


def _ranges(numbers: list[int]) -> str:
    """Sorted slices, counted from 0, as they are shown: [3, 4, 5, 8] → "4 to 6, 9"."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(f"{start + 1}" if start == end else f"{start + 1} to {end + 1}" for start, end in pairs)


def _values(voxels: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, float | None]:
    """Voxels [N, H, W] → their values as contiguous float32, and what became of those that are not finite, if any are.

    In many scans these are what somebody cut off around the brain, so they become black: the lowest value, 0 at most.
    """
    values = np.empty(voxels.shape, np.float32)
    holes = []
    with np.errstate(all="ignore"):
        # Slice by slice, because copies of a large scan take gigabytes.
        for number, (source, value) in enumerate(zip(voxels, values, strict=True)):
            value[:] = source * slope + intercept if (slope, intercept) != (1, 0) else source
            if not np.isfinite(value).all():
                holes.append(number)
    if not holes:
        return values, None
    black = min(float(np.min(value, where=np.isfinite(value), initial=0)) for value in values)
    for number in holes:
        np.nan_to_num(values[number], copy=False, nan=black, posinf=black, neginf=black)
    return values, black
