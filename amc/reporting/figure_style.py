"""How pictures look, and how they become files and parts of a page.

As they come they are dark on white; :func:`to_svg` drops the background and makes the colours the
page's own, so that a picture follows it into dark mode.
"""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from amc.utils.atomic_files import replacing

MUTED, LINE, SOFT, ACCENT, SECOND = "#7a848c", "#b4bcc2", "#c3cbce", "#1f8f84", "#d9702f"
"""Text, hairlines, the dense network, what is kept or learned, the one thing to look at."""

HALO = "halo"
"""End of the ids of labels that lie over data: the page draws a rim around them."""

_VARIABLES = {
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SOFT: "var(--soft)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}

STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",  # TensorBoard drops transparency, and smooth edges with it
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": MUTED,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be found
    "svg.hashsalt": "amc",  # the same data give the same bytes
}
styled = mpl.rc_context(STYLE)


def save(figure: Figure, path: Path) -> None:
    """Write a picture by itself, on white: SVG or PNG, by the suffix."""
    dated = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context(STYLE), replacing(path) as draft:
        figure.savefig(draft, dpi=150, metadata=dated)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """An ``<svg>`` element for a page: scales to its box, colours are the page's variables.

    ``name`` keeps its ids apart from those of the page's other pictures; ``description`` is what
    a screen reader says.
    """
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', drawing)
    head = f'<svg {size[0] if size else ""} role="img" aria-label="{escape(description)}">'
    drawing = head + drawing[drawing.index(">") + 1 :]
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(colour, variable)
    return drawing
