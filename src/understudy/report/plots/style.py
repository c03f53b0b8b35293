"""The look of all plots, and a plot as a panel: SVG for the page, SVG and PNG for the folder of figures."""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, QUIET = "#222222", "#5F6670"
REAL_COLOUR, SYNTHETIC_COLOUR = "#222222", "#AA3377"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same measures everywhere
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.labelcolor": QUIET, "axes.edgecolor": "#9AA1AB", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E8EBEF", "grid.linewidth": 0.7,
    "xtick.color": QUIET, "ytick.color": QUIET, "text.color": INK, "lines.linewidth": 1.6,
    "legend.frameon": False, "legend.fontsize": 8.5,
    "svg.fonttype": "none",  # text stays text: sharp, small, and in the page's own font
    "svg.hashsalt": "understudy",
}  # fmt: skip
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PANEL, NARROW = (4.0, 2.75), (3.1, 2.75)  # inches: three beside each other on a screen, or four
MOST_SETTINGS = 6  # in one plot; of a larger grid only those that differ from the baseline in their slices
MOST_POINTS = 400  # of a curve: more than the pixels of a panel only makes the page heavy

# A generator looks the same in every plot; looks differ in lightness, hue, dashes and marker.
GENERATOR_COLOURS = ("#AA3377", "#2A7FB8", "#D55E00", "#009E73", "#7A6A00", "#5B4FBF", "#3B3B3B", "#E07BB0")
GENERATOR_MARKERS = ("D", "s", "^", "o", "v", "P", "X", "*")
GENERATOR_DASHES: tuple[Any, ...] = (
    "-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)),
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    src: str  # `data:` address of the SVG
    alt: str  # what it shows in words
    wide: bool = False  # it takes the whole width
    key: str = ""  # name of its files, "" for a picture of the page only
    width: int = 0  # natural width in pixels of a page, 0 if not known
    png: bytes = b""

    @property
    def svg(self) -> bytes:
        """Content of the SVG file."""
        return base64.b64decode(self.src.partition(",")[2])


@dataclass(frozen=True)
class Look:
    colour: str
    dashes: Any
    marker: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each generator, by its place in the study."""
    given = (GENERATOR_COLOURS, GENERATOR_DASHES, GENERATOR_MARKERS)
    return {name: Look(*(of[i % len(of)] for of in given)) for i, name in enumerate(names)}


@contextmanager
def figure_of(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of `size` inches in the style of all figures, which is on inside the block."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def one_plot(size: tuple[float, float] = PANEL) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes."""
    with figure_of(size) as figure:
        yield figure, figure.add_subplot()


def panel_of(figure: Figure, alt: str, wide: bool = False, key: str = "") -> Panel:
    """The finished figure as a panel; to be called while its style is on."""
    svg, png = _rendered(figure)
    src = "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
    return Panel(src, alt, wide, file_name(key), round(figure.get_figwidth() * 96), png)  # 96 pixels an inch


def _rendered(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as SVG and as PNG."""
    text, picture = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})  # the same bytes every time
    figure.set_layout_engine("none")  # it is laid out now
    figure.savefig(picture, format="png", dpi=300, metadata={"Software": None})
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?(?=[;\"])", FONTS, text.getvalue())
    return svg.encode(), picture.getvalue()


def legend_below(figure: Figure, axes: Axes, most: int = 3) -> None:
    """The legend under the plot, where it covers no curve, in as many columns as fit; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    longest = 0.075 * max(map(len, labels)) + 0.45  # inches, with its line
    columns = max(1, min(most, len(labels), int(figure.get_figwidth() / longest)))
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.0, handlelength=1.8)


def file_name(key: str) -> str:
    """Letters, digits, "-" and "_" only: "areas_NCR-NET" for "areas NCR/NET"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", key.replace(" ", "_")).strip("-")


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve with no more points than a panel can show, its last one kept."""
    step = max(1, -(-len(x) // MOST_POINTS))
    return (x, y) if step == 1 else (np.append(x[:-1:step], x[-1]), np.append(y[:-1:step], y[-1]))
