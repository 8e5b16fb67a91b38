"""What paths on a command line hold: slices, and the files of volumes → `Source`s and the places of their results."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from .files import NamedBytes, short_names
from .image_processing_unet import IMAGE_SUFFIXES, Picture, read_channels, read_picture, read_sizes
from .journal import Source
from .overlay import CLASS_COLORS
from .volumes.archives import ArchiveError, Member, members, starts_archive
from .volumes.dicom import DICOMDIR, study_of
from .volumes.volume import SNIFF_BYTES, VOLUME_SUFFIXES, kind_of, kind_of_file, without_suffix


PAGED_SUFFIXES = (".tif", ".tiff")  # of files that may hold several pages
OF_CLASSES = ("", *(f"_{number}" for number in range(1, len(CLASS_COLORS) + 1)))
RESULTS = (*(f"_{kind}{number}" for number in OF_CLASSES for kind in ("mask", "probability")), "_labels")
RESULT_SUFFIXES = ("_overlay.png", *(f"{name}.png" for name in RESULTS))
VOLUME_RESULT_SUFFIXES = ("_overlay.png", "_mask.dcm", *(f"{name}.nii.gz" for name in RESULTS))


def find_sources(paths: list[Path], out: Path) -> dict[str, Source]:
    """Find slices and volumes, and the place of each one's results.

    A file by itself is a slice or, by its content, a volume; DICOM files belong together if they name one study or, if
    they name none, lie in one folder. An archive without a scan holds slices as a folder does, and a file of several
    pages holds a slice on each. The places repeat the folders below the deepest folder that all paths share, so that
    equal names from different folders stay apart. They leave the suffix out, unless two sources differ in nothing else.
    A folder that cannot be searched stands among the sources, where it fails with the reason.

    Args:
        paths: files, taken whatever their suffix is, and folders, searched for `IMAGE_SUFFIXES`, and for volumes of any
            name; hidden files, and results of an earlier run in `out`, are passed over.
        out: folder for the results.

    Returns:
        Place relative to `out`, with forward slashes → source. The place of a folder that cannot be searched ends in a
        slash.

    Raises:
        OSError: a path does not exist.
        ValueError: there is nothing to segment, or results would overwrite a source.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder.")
    roots = [path if path.is_dir() else path.parent for path in paths]
    shared = Path(os.path.commonpath([root.resolve() for root in roots]))
    files: dict[Path, Path] = {}
    unsearched: dict[str, Source] = {}
    for path, root in zip(paths, roots, strict=True):
        folder = root.resolve().relative_to(shared)
        found, folders = _search(path, out) if path.is_dir() else ([path], [])
        files |= {folder / file.relative_to(root): file for file in found}
        unsearched |= {f"{(folder / below.relative_to(root)).as_posix()}/": Source.of_slice(below) for below in folders}
    named = set(paths)
    kinds = {place: _kind(file, is_named=file in named) for place, file in files.items()}
    sources: dict[Path, Source] = {}
    taken = {folder for place in files for folder in place.parents}
    for place, kind in kinds.items():
        file = files[place]
        slices = _slices_in(file) if kind == "archive" else {}
        if kind == "slice":
            sources |= _pages_of(place, Source.of_slice(file), file)
        elif slices:
            # Nothing else may lie where its slices do.
            folder = Path(without_suffix(place))
            folder = place if folder in taken else folder
            taken.add(folder)
            for name, member in slices.items():
                source = Source(file / name, (file,), member=name)
                sources |= _pages_of(folder / name, source, member)
        elif kind in ("volume", "archive"):
            sources[place] = Source(file, (file,), is_volume=True)
    studies = dict(_studies(files, kinds, shared))
    if not (sources or studies or unsearched):
        names = ", ".join((*IMAGE_SUFFIXES, *VOLUME_SUFFIXES))
        raise ValueError(f"no slices and no volumes in {', '.join(map(str, paths))}; looked for {names}, and DICOM.")
    placed = _placed(sources, studies)
    refuse_overwriting(placed, out, placed.values())
    return {**placed, **unsearched}


def _search(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, and the folders that could not be searched for more."""
    results = out.resolve()
    results_inside = folder.resolve() in results.parents
    files: list[Path] = []
    unsearched: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unsearched.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if _may_be_file(file) and not (results_inside and results in file.resolve().parents):
                files.append(file)
    return sorted(files), sorted(unsearched)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # which reading it will say
        return True


def _kind(file: Path, is_named: bool) -> str | None:
    """ "slice", "volume", "archive"; "dicom" for one file of a volume, "empty" for what may be one; None for others."""
    name = file.name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return "slice"
    if name == DICOMDIR and not is_named:
        return None
    try:
        with file.open("rb") as stream:
            head = stream.read(SNIFF_BYTES)
    except OSError:  # which reading it will say
        return "slice" if is_named else "volume"
    if starts_archive(head):
        return "archive"
    if kind := kind_of(head):
        return "dicom" if kind == "dicom" else "volume"
    if not head and not is_named:
        return "empty"
    if name.endswith(VOLUME_SUFFIXES):
        return "volume"
    return "slice" if is_named else None


def _slices_in(archive: Path) -> dict[str, Member]:
    """The slices in an archive, by their names; none if it holds a scan, or cannot be used, which reading it says."""
    try:
        found = members(archive)
    except (ArchiveError, OSError):
        return {}
    slices = {member.name: member for member in found if member.name.lower().endswith(IMAGE_SUFFIXES)}
    others = (member for member in found if member.name not in slices)
    return slices if all(kind_of_file(member) in (None, "damaged") for member in others) else {}


def _pages_of(place: Path, source: Source, file: Path | Member) -> dict[Path, Source]:
    """The slices in a picture's file, by their places: one, or one for each of its pages."""
    if not place.name.lower().endswith(PAGED_SUFFIXES):
        return {place: source}
    try:
        count = len(read_sizes(file if isinstance(file, Path) else _unpacked(file)))
    except ValueError:  # which reading it will say
        count = 1
    if count == 1:
        return {place: source}
    pages = {}
    for page in range(count):
        path = source.path / f"page-{page + 1}"
        pages[place.with_stem(f"{place.stem}_page-{page + 1}")] = replace(source, path=path, page=page)
    return pages


def _unpacked(member: Member) -> NamedBytes:
    return NamedBytes(member.read(), PurePosixPath(member.name).name)


def read_slice(source: Source, channel_names: Sequence[str] = ()) -> Picture | np.ndarray:
    """Read the slice of a source that is no volume.

    Args:
        channel_names: of a model of several channels, whose slices are arrays [C, H, W].

    Raises:
        ArchiveError, InvalidImageError, OSError: it cannot be read.
    """
    file: Path | NamedBytes = source.files[0]
    if len(source.files) > 1:
        return read_channels([*source.files], channel_names)
    if source.member:
        status = source.files[0].stat()
        file = _unpacked(_members(source.files[0], status.st_size, status.st_mtime_ns)[source.member])
    if channel_names:
        return read_channels(file, channel_names)
    return read_picture(file, page=source.page)


@lru_cache(maxsize=4)
def _members(archive: Path, *state: int) -> dict[str, Member]:
    """The files in an archive, which stays open; `state` is another one when it has changed."""
    return {member.name: member for member in members(archive)}


def _studies(files: dict[Path, Path], kinds: dict[Path, str | None], shared: Path) -> Iterator[tuple[Path, Source]]:
    """The volumes that DICOM files make, each with the place of its folder, or of its first file if it has none of its
    own."""
    groups: dict[tuple[str, Path | None], list[Path]] = {}
    for place in (place for place, kind in kinds.items() if kind == "dicom"):
        study = study_of(files[place])
        groups.setdefault((study, None if study else place.parent), []).append(place)
    # An empty file may be a slice of what lies beside it.
    in_folder = {place.parent: group for group in groups.values() for place in group}
    for place in (place for place, kind in kinds.items() if kind == "empty"):
        if group := in_folder.get(place.parent):
            group.append(place)
        elif place.name.lower().endswith(VOLUME_SUFFIXES):
            groups["", place] = [place]
    folders = [Path(os.path.commonpath([place.parent for place in group])) for group in groups.values()]
    for group, folder in zip(groups.values(), folders, strict=True):
        found = tuple(files[place] for place in group)
        if len(group) == 1 or folders.count(folder) > 1:
            yield group[0], Source(found[0], found, is_volume=True)
        else:
            name = folder if folder.name else Path(shared.name or "volume")
            yield name, Source(Path(os.path.commonpath([file.parent for file in found])), found, is_volume=True)


def _placed(sources: dict[Path, Source], studies: dict[Path, Source]) -> dict[str, Source]:
    """The place of every source without its suffix, or all with it, if two would have one place."""
    everything = {**sources, **studies}
    stems = {place: without_suffix(place) if place.suffix else place for place, source in everything.items()}
    # Lower case, because many file systems take "A.png" and "a.png" for the same file.
    counted = Counter(short_names(stem.as_posix()).lower() for stem in stems.values())
    if max(counted.values(), default=1) > 1:
        stems = {place: place for place in everything}
    return {short_names(stem.as_posix()): everything[place] for place, stem in stems.items()}


def refuse_overwriting(sources: dict[str, Source], out: Path, inputs: Iterable[Source]):
    """Raise a ValueError where a result would be written over a file of the inputs."""
    read = {file.resolve() for source in inputs for file in source.files}
    for place, source in sources.items():
        for suffix in VOLUME_RESULT_SUFFIXES if source.is_volume else RESULT_SUFFIXES:
            result = out / f"{place}{suffix}"
            if result.exists() and result.resolve() in read:
                kind = "volume" if source.is_volume else "slice"
                raise ValueError(f"the results would overwrite the {kind} {result}; name another folder with --out.")
