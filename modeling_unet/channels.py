"""Which files are the channels of one slice or volume, by their names → one `Source` for each.

    CASE/CASE_t1ce.nii.gz, CASE-t1ce.nii.gz     the channel ends the name, as in BraTS
    CASE/t1ce.png                               or is all of it: then the folder is the slice
    CASE_0000.nii.gz                            nnU-Net: its number in dataset.json, here or in the folder above
    sub-01_ses-1_acq-3d_ce-gd_T1w.nii.gz        BIDS: `ce-gd_T1w` of a subject, session and run
    CASE.nii.gz, CASE.npy, CASE.png             all in one: so many volumes; [C, H, W]; red, green and blue of a picture

Whatever else lies there, such as other sequences and masks, is left out.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from .files import short_names
from .image_processing_unet import COLOURS
from .journal import Source
from .volumes.nifti import count_volumes
from .volumes.volume import without_suffix


VISIT = ("sub", "ses", "run")  # what a scan in BIDS is of
ENTITY = re.compile(r"[A-Za-z]+-[0-9A-Za-z+]+")
NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
DESCRIPTION = "dataset.json"


def parse_bids(name: str) -> tuple[tuple[str, ...], str]:
    """sub-01_ses-1_acq-3d_ce-gd_T1w → (("01", "1", ""), "ce-gd_T1w"): what `VISIT` says, and the sequence."""
    *entities, suffix = name.split("_")
    known = dict(entity.split("-", 1) for entity in entities if "-" in entity)
    return tuple(known.get(entity, "") for entity in VISIT), f"ce-{known['ce']}_{suffix}" if "ce" in known else suffix


def name_visit(visit: Sequence[str]) -> str:
    """("01", "1", "") → sub-01_ses-1"""
    return "_".join(f"{entity}-{value}" for entity, value in zip(VISIT, visit, strict=True) if value)


def join_channels(
    sources: dict[str, Source], names: Sequence[str], called: Sequence[str] = ()
) -> tuple[dict[str, Source], list[Path]]:
    """Put the files of each slice and volume together.

    Args:
        sources: by the place of their results, as `find_sources` gives them.
        names: of the channels, as the model has them.
        called: what the names of files call them, in the same order; by default the same. Capital and small letters
            are the same.

    Returns:
        Place → source, whose `files` are in the order of the channels, and what of `sources` is left out.

    Raises:
        ValueError: other numbers of names; two files could be one channel; or there is nothing to segment.
    """
    called = called or names
    if len(called) != len(names) or len({name.lower() for name in called}) < len(names):
        raise ValueError(
            f"--channels is {' '.join(called)}; the model takes {len(names)} ({', '.join(names)}): give as many "
            "different names, in this order."
        )
    joined: dict[str, Source] = {}
    parts: dict[str, dict[str, Source]] = defaultdict(dict)
    left_out: list[Path] = []
    for place, source in sources.items():
        if place.endswith("/"):  # a folder that could not be searched
            joined[place] = source
        elif part := _part(source, called):
            case, channel = part
            place = _place_of(place, case, source)
            other = parts[place].setdefault(channel, source)
            if other is not source:
                raise ValueError(f"{other.path} and {source.path} could both be the {channel} of {case or place}.")
        elif len(names) > 1 and (whole := _whole(source, names, called)):
            joined[place] = whole
        else:
            left_out.append(source.path)
    for place, found in parts.items():
        if place in joined:
            raise ValueError(f"the results of {joined[place].path} and of its channels would be one; take one away.")
        joined[place] = _together(found, PurePosixPath(place).name, called)
    if not joined:
        raise ValueError(
            f"no slice of the channels {', '.join(called)} in {len(left_out)} files, such as {left_out[0]}: a file of "
            f"each is needed, such as NAME_{called[0]}.png or NAME_{called[0]}.nii.gz, or one of all; --channels says "
            "what the names of files call them, such as --channels 0000 0001."
        )
    return joined, left_out


def _part(source: Source, called: Sequence[str]) -> tuple[str, str] | None:
    """What a file is a channel of, "" for its folder, and which; None if it is none by its name."""
    if source.files != (source.path,):
        return None  # of an archive, or of several files
    stem, known = without_suffix(source.path).name, {name.lower(): name for name in called}
    if channel := known.get(stem.lower()):
        return "", channel
    if (match := NUMBERED.fullmatch(stem)) and (described := _described(source.path.parent)):
        channel = known.get(described.get(int(match["number"]), "").lower())
        return (match["case"], channel) if channel else None
    *entities, _ = stem.split("_")
    if entities and all(map(ENTITY.fullmatch, entities)) and stem.startswith("sub-"):
        visit, sequence = parse_bids(stem)
        channel = known.get(sequence.lower())
        return (name_visit(visit), channel) if channel else None
    ends = "|".join(map(re.escape, called))
    match = re.fullmatch(rf"(?P<case>.+?)[-_. ](?P<channel>{ends})", stem, re.IGNORECASE)
    return (match["case"], known[match["channel"].lower()]) if match else None


def _whole(source: Source, names: Sequence[str], called: Sequence[str]) -> Source | None:
    """A file that holds all channels, or None."""
    if not source.is_volume:
        is_array = source.files[0].suffix.lower() == ".npy"
        return source if is_array or {*names} <= {*COLOURS} else None
    if source.files != (source.path,) or (count := count_volumes(source.path)) < 2:
        return None
    numbers = {name.lower(): number + 1 for number, name in _described(source.path.parent).items()}
    if {name.lower() for name in called} <= numbers.keys():
        chosen = tuple(numbers[name.lower()] for name in called)
    elif count == len(names):
        chosen = tuple(range(1, count + 1))
    else:
        return None
    return Source(source.path, (source.path,) * len(names), is_volume=True, numbers=chosen)


def _place_of(place: str, case: str, source: Source) -> str:
    folder = PurePosixPath(place).parent
    if not case:
        return str(folder) if folder.name else source.path.absolute().parent.name or "slice"
    return short_names((folder / case).as_posix())


def _together(found: dict[str, Source], case: str, called: Sequence[str]) -> Source:
    """The source of one slice or volume whose channels are in so many files."""
    parts = [found[name] for name in called if name in found]
    if len({part.is_volume for part in parts}) > 1:
        raise ValueError(f"{parts[0].path} and other channels of {case} are pictures and volumes; give one kind.")
    folder = parts[0].path.parent
    missing = tuple(name for name in called if name not in found)
    path = folder if folder.name == case else folder / case
    return Source(path, tuple(part.path for part in parts), parts[0].is_volume, missing=missing)


@lru_cache(maxsize=64)
def _described(folder: Path) -> dict[int, str]:
    """Number → name of the channels in nnU-Net's description of a data set, in a folder or above it; empty if none."""
    for place in (folder, folder.absolute().parent):
        try:
            description = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
            channels = description.get("channel_names") or description.get("modality")
            return {int(number): str(name) for number, name in channels.items()}
        except (AttributeError, OSError, RecursionError, ValueError):
            continue
    return {}
