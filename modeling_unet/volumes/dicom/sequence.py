"""Which slices make one stack, and which stack is the one to read: frames of any series → `Stack`s → one of them.

Slices make one stack if they have a series, a size in pixels and in mm and an orientation in common, and a place of
their own. Of several images of every place, such as magnitude and phase, each kind is a stack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..scan import VolumeError
from .grid import gap_of, heights_of, places_of
from .tags import Frame


# Rounding turns the slices of one stack a little against each other: of direction cosines the difference, of pixel
# sizes the fraction.
ALIKE = 0.005
# A stack that is shorter than this part of the longest one shows less of the head, however fine it is.
LONG_ENOUGH = 0.5
MAX_NAMED = 9  # of the stacks that were not read

USUAL_COMPONENTS = (None, "magnitude")
COMPUTED = "computed from others"
PLANES = ("sagittal", "coronal", "axial")  # by the axis along which slices follow each other


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices at places of their own.

    Attributes:
        frames: in no order.
        turn: the number of its images among those of every place, if no tag tells these apart.
        parts: what tells it from others of its series, in words.
        warnings: what to know about its choice of frames, one sentence each.
    """

    frames: list[Frame]
    turn: int = 0
    parts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is, such as "T1-weighted with contrast, axial, 20 slices 5.0 mm apart"."""
        first, gap, count = self.frames[0], gap_of(self.frames), len(self.frames)
        words = [first.protocol.words]
        if first.orientation is not None:
            normal = np.cross(first.orientation[:3], first.orientation[3:])
            words.append(PLANES[int(np.abs(normal).argmax())])
        slices = "1 slice" if count == 1 else f"{count} slices"
        words.append(slices if gap is None or count == 1 else f"{slices} {gap:.1f} mm apart")
        if first.component not in USUAL_COMPONENTS:
            words.append(str(first.component))
        if not first.is_original:
            words.append(COMPUTED)
        return ", ".join(dict.fromkeys([*words, *self.parts]))


@dataclass(frozen=True)
class _Tell:
    """What may tell the images of one place apart: its value for a frame, and that value in words."""

    value: Callable[[Frame], Any]
    words: Callable[[Any], str]
    is_sure: bool = False  # whatever the places, images that differ in it make no stack
    is_time: bool = False  # contrast is given before the last


def _numbered(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name} {value:g}" if value is not None else f"without a number of its {name}"


TELLS = (
    _Tell(lambda frame: frame.component, lambda value: str(value or "of no named component"), is_sure=True),
    _Tell(lambda frame: frame.is_original, lambda value: "as it was taken" if value else COMPUTED),
    _Tell(
        lambda frame: frame.protocol.has_contrast,
        lambda value: {True: "with contrast", False: "without contrast"}.get(value, "with nothing said of contrast"),
    ),
    _Tell(lambda frame: frame.echo, _numbered("echo time"), is_sure=True),
    _Tell(lambda frame: frame.time, _numbered("time"), is_time=True),
    _Tell(lambda frame: frame.acquisition, _numbered("acquisition"), is_time=True),
)


def find_stacks(frames: list[Frame]) -> list[Stack]:
    """All stacks of some frames, in the order of their first ones."""
    groups = _alike(frames, lambda frame: frame.series)
    stacks = [stack for group in groups if len(group) > 1 for stack in _told_apart(Stack(group))]
    # Some programs give every slice a series of its own.
    singles = [group[0] for group in groups if len(group) == 1]
    for group in _alike(singles, lambda frame: frame.protocol):
        if len(group) == 1:
            stacks.append(Stack(group))
        elif heights_of(group) is None:
            stacks += [Stack([frame]) for frame in group]
        else:
            said = f"Each of {len(group)} slices names a series of its own; they are alike and were put together."
            stacks += _told_apart(Stack(group, warnings=(said,)))
    order = {frame: number for number, frame in enumerate(frames)}
    return sorted(stacks, key=lambda stack: min(order[frame] for frame in stack.frames))


def choose(stacks: list[Stack], number: int | None = None) -> tuple[Stack, str | None]:
    """The stack to read, and a sentence that names the others.

    Args:
        number: of the stack, counted from 1; None for the best: T1-weighted with contrast rather than anything else,
            magnitude as it was taken, then the finest, the shortest echo, the last acquisition.

    Raises:
        VolumeError: there is no stack of this number.
    """
    if number is not None and not 1 <= number <= len(stacks):
        raise VolumeError(f"There is no stack {number} in the files; they hold {_listed(range(len(stacks)), stacks)}.")
    index = _best(stacks) if number is None else number - 1
    if len(stacks) == 1:
        return stacks[0], None
    others = [other for other in range(len(stacks)) if other != index]
    return stacks[index], (
        f"The files hold {len(stacks)} stacks of slices; number {index + 1} was read ({stacks[index].words}), and not "
        f"{_listed(others, stacks)}."
    )


def _best(stacks: list[Stack]) -> int:
    kinds = [_kind_rank(stack.frames[0]) for stack in stacks]
    best = [index for index, kind in enumerate(kinds) if kind == max(kinds)]
    lengths = {index: len(stacks[index].frames) * (gap_of(stacks[index].frames) or 1.0) for index in best}
    longest = max(lengths.values())
    return max(
        (index for index in best if lengths[index] >= LONG_ENOUGH * longest),
        key=lambda index: (*_fineness_rank(stacks[index]), -index),
    )


def _kind_rank(frame: Frame) -> tuple:
    return (*frame.protocol.rank, frame.component in USUAL_COMPONENTS, frame.is_original)


def _fineness_rank(stack: Stack) -> tuple[float, ...]:
    first, gap = stack.frames[0], gap_of(stack.frames)
    voxel = np.inf if first.spacing is None or gap is None else float(f"{np.prod(first.spacing) * gap:.2g}")
    turn = -(first.echo or 0), first.time or 0, first.acquisition or 0, stack.turn
    return -voxel, first.component == "magnitude", *turn, len(stack.frames)


def _listed(indices: "list[int] | range", stacks: list[Stack]) -> str:
    named = [f"{index + 1} ({stacks[index].words})" for index in indices[:MAX_NAMED]]
    more = len(indices) - len(named)
    return ", ".join([*named, f"and {more} more"] if more else named)


def _alike(frames: list[Frame], key: Callable[[Frame], object]) -> list[list[Frame]]:
    """Frames of equal size, orientation and `key`, in groups."""
    groups: dict[tuple, list[Frame]] = {}
    for frame in frames:
        known = frame.orientation is not None, frame.spacing is not None
        groups.setdefault((key(frame), frame.shape, frame.inverted, known), []).append(frame)
    return [part for group in groups.values() for part in _within_tolerance(group)]


def _within_tolerance(frames: list[Frame]) -> list[list[Frame]]:
    numbers = np.array([[*(frame.orientation or ()), *np.log(np.abs(frame.spacing or ()))] for frame in frames])
    rest, parts = np.arange(len(frames)), []
    while len(rest):
        alike = (np.abs(numbers[rest] - numbers[rest[0]]) <= ALIKE).all(axis=1)
        parts.append([frames[index] for index in rest[alike]])
        rest = rest[~alike]
    return parts


def _told_apart(stack: Stack, tells: tuple[_Tell, ...] = TELLS) -> list[Stack]:
    """One stack for every kind of image that shows most of its places, each frame at a place of its own."""
    frames = sorted(stack.frames, key=lambda frame: (frame.number, frame.clock or 0))
    places, are_known = places_of(frames), heights_of(frames) is not None
    count = len(set(places.tolist()))
    if are_known and count == len(frames):
        return [stack]
    for number, tell in enumerate(tells, start=1):
        if not (are_known or tell.is_sure):
            continue
        parts: dict[object, list[int]] = {}
        for index, frame in enumerate(frames):
            parts.setdefault(tell.value(frame), []).append(index)
        wide: list[Any] = [value for value, indices in parts.items() if 2 * len({*places[indices]}) > count]
        if len(wide) > 1:
            last = max(filter(None, wide), default=None) if tell.is_time else None
            is_last = {value: last is not None and value == last for value in parts}
            return [
                part
                for value, indices in parts.items()
                for part in _told_apart(
                    _part(stack, [frames[i] for i in indices], tell.words(value), len(wide), is_last[value]),
                    tells[number:],
                )
            ]
    return _by_turns(stack, frames, places) if are_known else [stack]


def _by_turns(stack: Stack, frames: list[Frame], places: np.ndarray) -> list[Stack]:
    """The first, second and so on of every place, as long as they show most places; of the rest, nothing."""
    seen: dict[int, int] = {}
    turns: dict[int, list[Frame]] = {}
    for frame, place in zip(frames, places.tolist(), strict=True):
        seen[place] = seen.get(place, 0) + 1
        turns.setdefault(seen[place], []).append(frame)
    wide = [turn for turn, shown in turns.items() if 2 * len(shown) > len(seen)]
    if len(wide) == 1:
        left_out = len(frames) - len(turns[1])
        said = f"{left_out} slices lie where another one does and were left out."
        return [Stack(turns[1], stack.turn, stack.parts, (*stack.warnings, said))]
    return [
        _part(stack, turns[turn], f"number {turn} of every place", len(wide), turn == max(wide), turn) for turn in wide
    ]


def _part(stack: Stack, frames: list[Frame], words: str, count: int, is_last: bool, turn: int = 0) -> Stack:
    because = ", the last, as contrast is given before it" if is_last else ""
    said = f"A series holds {count} images of every place, and one of them was read: {words}{because}."
    return Stack(frames, turn, (*stack.parts, words), (*stack.warnings, said))
