"""How all charts look, and how they become files. Colours are those of Okabe and Ito (2008, "Color universal design"),
which colour-blind readers tell apart."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from modeling_unet.files import write_atomically


BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY_BLUE, BLACK = "#e69f00", "#56b4e9", "#000000"
# Each colour with a marker of its own, for prints in grey.
LOOKS = (
    *((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D")),
    *((ORANGE, "v"), (SKY_BLUE, "P"), (BLACK, "X")),
)
TRUTH_COLOR, PREDICTION_COLOR = SKY_BLUE, ORANGE  # of outlines on a slice
INK, PALE = "#212529", "#adb5bd"

DPI = 160
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dee2e6",
    "grid.linewidth": 0.7,
}


def write_figure(draw: Callable[[], Figure | None], path: Path) -> bool:
    """Call `draw` in the project's style and write what it returns as a PNG file; an older one is replaced.

    Returns:
        Whether there is a file now: `draw` may return None if there is nothing to show.
    """
    picture = io.BytesIO()
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are typed as literals
        figure = draw()
        if figure is None:
            path.unlink(missing_ok=True)
            return False
        figure.savefig(picture, format="png", dpi=DPI)
    write_atomically(path, picture.getvalue())
    return True
