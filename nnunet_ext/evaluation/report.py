"""One self-contained HTML page from sections given as data; any stage can use it.

A page is a title, a few facts, key figures, and sections of blocks. Everything is inline: style, script and pictures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot

from nnunet_ext.files import atomic_path

Tone = Literal["", "best", "bad", "muted"]

_PLOT_BASE = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
_PLOT_THEMES = {
    "light": {"ink": "#3c4858", "grid": "#e3e7ed", "paper": "#ffffff"},
    "dark": {"ink": "#b8c2d0", "grid": "#2d3643", "paper": "#171c24"},
}


@dataclass(frozen=True)
class Cell:
    """A table cell: `text`, a smaller second line `note`, what to sort by, and a tone."""

    text: str
    note: str = ""
    value: float | None = None
    tone: Tone = ""
    rows: int = 1
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of strings or cells. A column whose name starts with `#` holds numbers and is set to the right."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    sortable: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["", "warning"] = ""


@dataclass(frozen=True)
class Definitions:
    """Terms and what they mean."""

    kind: ClassVar[str] = "definitions"
    terms: Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """A PNG with its description for who cannot see it; `dark` replaces it on a dark page."""

    kind: ClassVar[str] = "figure"
    png: bytes
    alt: str
    caption: str = ""
    title: str = ""
    dark: bytes | None = None


@dataclass(frozen=True)
class Row:
    """Figures side by side where the page is wide enough."""

    kind: ClassVar[str] = "row"
    figures: Sequence[Figure]


Block = Table | Text | Definitions | Figure | Row


@dataclass(frozen=True)
class Section:
    """A heading, a line under it, and blocks; `folded` shows the heading only until it is clicked."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Tile:
    """A key figure at the top of the page."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report. `facts` are the lines under the title that say what was compared."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tiles: Sequence[Tile] = ()


def render(page: Page) -> str:
    """The page as HTML; nothing in it is loaded from elsewhere."""
    environment = Environment(
        loader=PackageLoader("nnunet_ext.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("report.html").render(page=page)


def write_report(page: Page, target: Path) -> None:
    """Write the page atomically."""
    html = render(page)
    with atomic_path(target) as path:
        path.write_text(html, encoding="utf-8")


def png(plot: Plot, dpi: int = 150) -> bytes:
    """A matplotlib figure as PNG."""
    FigureCanvasAgg(plot)
    stream = io.BytesIO()
    plot.savefig(stream, format="png", dpi=dpi, facecolor=plot.get_facecolor())
    return stream.getvalue()


def themed(draw: Callable[[], Plot], alt: str, caption: str = "", title: str = "") -> Figure:
    """Draw a plot twice, for a light and for a dark page.

    Args:
        draw: makes the plot anew; text, axes and background take their colours from matplotlib's settings.
        alt: what the plot shows, in words.
        caption: the line under it.
        title: the line over it.
    """
    images = {}
    for theme, colour in _PLOT_THEMES.items():
        ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        settings: dict[Any, Any] = _PLOT_BASE | dict.fromkeys(ink, colour["ink"]) | {"grid.color": colour["grid"]}
        settings |= {"figure.facecolor": colour["paper"], "axes.facecolor": colour["paper"]}
        with matplotlib.rc_context(settings):
            images[theme] = png(draw())
    return Figure(images["light"], alt, caption, title, images["dark"])
