"""Where the slices of one stack lie: frames → a `Grid` of even steps, with empty places where slices are missing."""

from dataclasses import dataclass

import numpy as np

from .tags import Frame


SAME_PLACE_MM = 0.01  # slices nearer than this lie at the same place
# A gap is even, or a whole number of slices is missing in it, if it differs from the others by this fraction at most.
UNEVEN_GAP = 0.05
# More missing slices than these are no gap in a stack, but stacks far from each other.
MAX_MISSING_PER_SLICE = 4
ASIDE_MM = 1.0  # slices that lie this far beside the grid are warned of
# Of uneven slices whose distances differ more than this, nobody can say how much tissue one stands for.
MAX_UNEVEN_RATIO = 2.0


@dataclass(frozen=True, eq=False)
class Grid:
    """Slices at even steps.

    Attributes:
        slots: the number of every frame's slice in the grid.
        count: of slices in the grid, those that are missing included.
        affine: float64 [4, 4], index (column, row, slice, 1) → mm towards the patient's right, anterior and superior.
        gap_known: whether it is known how far slices are apart.
        warnings: what to know about it, one sentence each.
    """

    slots: dict[Frame, int]
    count: int
    affine: np.ndarray
    gap_known: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Heights:
    """How far along a stack its frames lie.

    Attributes:
        along: float64 [N] in mm.
        direction: of the stack, float64 [3] in DICOM's axes.
        by_location: whether the tags give nothing but these distances.
    """

    along: np.ndarray
    direction: np.ndarray
    by_location: bool


def heights_of(frames: list[Frame]) -> Heights | None:
    """By the positions; where these are missing or all the same, by the locations; None if both are."""
    direction = _normal(frames[0])
    positions = _positions(frames)
    if positions is not None:
        if frames[0].orientation is None:
            direction = _spread(positions)
        heights = positions @ direction
        if len(frames) == 1 or np.ptp(heights) > SAME_PLACE_MM:
            return Heights(heights, direction, by_location=False)
    locations = [frame.location for frame in frames if frame.location is not None]
    if len(locations) == len(frames) > 1 and np.ptp(locations) > SAME_PLACE_MM:
        return Heights(np.array(locations), _outwards(direction), by_location=True)
    return None


def places_of(frames: list[Frame]) -> np.ndarray:
    """The number of every frame's place, int [N], counted along the stack; all the same if nothing is known of them."""
    found = heights_of(frames)
    if found is None:
        return np.zeros(len(frames), int)
    order = np.argsort(found.along, kind="stable")
    places = np.empty(len(frames), int)
    places[order] = np.cumsum(np.diff(found.along[order], prepend=found.along[order[0]]) > SAME_PLACE_MM)
    return places


def gap_of(frames: list[Frame]) -> float | None:
    """Usual distance of slices in mm: by their places where they have some, by the tags otherwise."""
    found = heights_of(frames)
    if found is None or len(frames) == 1:
        return frames[0].gap
    gaps = np.diff(np.sort(found.along))
    gaps = gaps[gaps > SAME_PLACE_MM]
    return float(np.median(gaps)) if len(gaps) else frames[0].gap


def lay_out(frames: list[Frame]) -> Grid:
    """Put frames, each at a place of its own, into a grid."""
    first, found = frames[0], heights_of(frames)
    if len(frames) == 1 or found is None:
        frames = sorted(frames, key=lambda frame: frame.number)
        said = ("The tags do not say where the slices lie; they are in the order of their numbers.",)
        return Grid(
            slots={frame: slot for slot, frame in enumerate(frames)},
            count=len(frames),
            affine=_affine(frames[0], _normal(first) * (first.gap or 1.0), frames[0].position or (0, 0, 0)),
            gap_known=first.gap is not None,
            warnings=said if len(frames) > 1 else (),
        )
    order = np.argsort(found.along, kind="stable")
    frames, heights, direction = [frames[index] for index in order], found.along[order], found.direction
    gaps, even = np.diff(heights), _slots(heights)
    slots = np.arange(len(frames)) if even is None else even
    step = (heights[-1] - heights[0]) / slots[-1]
    positions, warnings = _positions(frames), []
    if positions is None or found.by_location:
        warnings.append("The tags do not say where the slices lie; their order and distances are by SliceLocation.")
        affine = _affine(frames[0], direction * step, frames[0].position or direction * heights[0])
    elif first.orientation is None:
        affine = _affine(frames[0], _normal(first) * step, positions[0])
    else:
        aslant = (positions[-1] - positions[0]) / slots[-1]
        aside = positions - positions[0] - slots[:, None] * aslant
        aside -= np.outer(aside @ direction, direction)
        if (farthest := float(np.linalg.norm(aside, axis=1).max())) > ASIDE_MM:
            warnings.append(f"Slices lie up to {farthest:.1f} mm beside each other; the mask is off by as much.")
        affine = _affine(frames[0], aslant, positions[0])
    gap_known = even is not None or gaps.max() <= MAX_UNEVEN_RATIO * gaps.min()
    if even is None:
        off = float(np.abs(heights - heights[0] - slots * step).max())
        unmeasured = "mL are not exact" if gap_known else "no mL are given"
        warnings.append(
            f"The slices are {gaps.min():.1f} to {gaps.max():.1f} mm apart, and some may be missing: in the mask they "
            f"lie up to {off:.1f} mm from where they were taken, and {unmeasured}."
        )
    placed = dict(zip(frames, slots.tolist(), strict=True))
    return Grid(placed, int(slots[-1]) + 1, affine, gap_known, tuple(warnings))


def _slots(heights: np.ndarray) -> np.ndarray | None:
    """The number of every slice in an even grid, int [N], by their sorted heights; None if no such grid fits."""
    gaps = np.diff(heights)
    usual = np.median(gaps[gaps < 1.5 * gaps.min()])
    steps = np.maximum(np.round(gaps / usual), 1)
    if (np.abs(gaps / steps - usual) > UNEVEN_GAP * usual).any():
        return None
    slots = np.concatenate([[0.0], np.cumsum(steps)])
    return slots.astype(int) if slots[-1] < (1 + MAX_MISSING_PER_SLICE) * len(heights) else None


def _normal(frame: Frame) -> np.ndarray:
    """The direction in which slices follow each other, in DICOM's axes."""
    orientation = frame.orientation or (1, 0, 0, 0, 1, 0)
    return np.cross(orientation[:3], orientation[3:])


def _outwards(direction: np.ndarray) -> np.ndarray:
    """A direction turned so that it points to the left, to the back or up, as locations grow."""
    return direction * np.sign(direction[np.argmax(np.abs(direction))])


def _spread(positions: np.ndarray) -> np.ndarray:
    """The direction from the first position to the one farthest from it, if any is."""
    ways = positions - positions[0]
    lengths = np.linalg.norm(ways, axis=1)
    if lengths.max() <= SAME_PLACE_MM:
        return np.array([0.0, 0.0, 1.0])
    return _outwards(ways[lengths.argmax()] / lengths.max())


def _positions(frames: list[Frame]) -> np.ndarray | None:
    """Where the frames lie, float64 [N, 3] in mm, or None unless the tags say it of every one."""
    known = [frame.position for frame in frames if frame.position is not None]
    return np.array(known) if len(known) == len(frames) else None


def _affine(frame: Frame, step: np.ndarray, origin: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """The affine of slices of which `frame` is the first, at `origin`, and the next one `step` further."""
    orientation = np.reshape(frame.orientation or (1, 0, 0, 0, 1, 0), (2, 3))
    row_mm, column_mm = frame.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3] = np.column_stack([orientation[0] * column_mm, orientation[1] * row_mm, step, origin])
    # DICOM's axes point towards left, posterior and superior.
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
