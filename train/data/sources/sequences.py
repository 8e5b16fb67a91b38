"""Which of several MR sequences are read: those that are asked for, or T1 with contrast where one alone is that."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..raw import DataError, Reading, listed


WITH_CONTRAST = re.compile(r"t1w?(ce|c|gd|km|post|gad|contrast|\+c)|ce[a-z0-9]*t1w?|(gd|gad|post|contrast)t1w?")


def choose(names: Iterable[str], reading: Reading, where: str) -> tuple[tuple[str, ...], str]:
    """The sequences that are read, in the order of channels, and what to say of them.

    Args:
        names: of all sequences, as the layout has them.
        reading: may ask for one or several.
        where: what to call the source in a message.

    Raises:
        DataError: one that is asked for is not there, or none is asked for and several could be meant.
    """
    names = sorted({*names})
    if asked := reading.sequences or ((reading.sequence,) if reading.sequence is not None else ()):
        by_name = {name.lower(): name for name in names}
        if missing := [name for name in asked if name.lower() not in by_name]:
            option = "--sequences names" if reading.sequences else "--sequence is"
            raise DataError(f"{option} {' '.join(missing)}; {where} has {listed(names)}.")
        found = [by_name[name.lower()] for name in asked]
    else:
        found = names if len(names) == 1 else [name for name in names if is_with_contrast(name)]
        if len(found) != 1:
            raise DataError(
                f"{where} has the sequences {listed(names)}, and which one is T1-weighted with contrast cannot be "
                "told; say with --sequence which one to read."
            )
    others = [name for name in names if name not in found]
    said = ", ".join(found) + (f" as {len(found)} channels" if len(found) > 1 else "")
    return tuple(found), said + (f"; not read: {', '.join(others)}" if others else "")


def gathered(scans: dict[str, Path], chosen: Iterable[str]) -> tuple[tuple[Path, ...], str]:
    """The files of the chosen sequences, or none, and which of them are missing.

    Args:
        scans: sequence → file, of one case.
        chosen: by `choose`.
    """
    missing = [name for name in chosen if name not in scans]
    return (() if missing else tuple(scans[name] for name in chosen)), ", ".join(missing)


def is_with_contrast(name: str) -> bool:
    """Whether a name says T1-weighted with contrast: t1ce, T1Gd, ce-GD_T1w, …"""
    return WITH_CONTRAST.fullmatch(re.sub(r"[^a-z0-9+]", "", name.lower())) is not None
