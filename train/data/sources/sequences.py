"""Which of several MR sequences is read: the one that is asked for, or T1 with contrast where one alone is that."""

import re
from collections.abc import Iterable

from ..raw import DataError, Reading, listed


WITH_CONTRAST = re.compile(r"t1w?(ce|c|gd|km|post|gad|contrast|\+c)|ce[a-z0-9]*t1w?|(gd|gad|post|contrast)t1w?")


def choose(names: Iterable[str], reading: Reading, where: str) -> tuple[str, str]:
    """The sequence that is read, and what to say of it.

    Args:
        names: of all sequences, as the layout has them.
        reading: may ask for one.
        where: what to call the source in a message.

    Raises:
        DataError: the one that is asked for is not there, or none is asked for and several could be meant.
    """
    names = sorted({*names})
    if reading.sequence is not None:
        found = [name for name in names if name.lower() == reading.sequence.lower()]
        if not found:
            raise DataError(f"--sequence is {reading.sequence}; {where} has {listed(names)}.")
    else:
        found = names if len(names) == 1 else [name for name in names if is_with_contrast(name)]
        if len(found) != 1:
            raise DataError(
                f"{where} has the sequences {listed(names)}, and which one is T1-weighted with contrast cannot be "
                "told; say with --sequence which one to read."
            )
    others = [name for name in names if name != found[0]]
    return found[0], found[0] + (f"; not read: {', '.join(others)}" if others else "")


def is_with_contrast(name: str) -> bool:
    """Whether a name says T1-weighted with contrast: t1ce, T1Gd, ce-GD_T1w, …"""
    return WITH_CONTRAST.fullmatch(re.sub(r"[^a-z0-9+]", "", name.lower())) is not None
