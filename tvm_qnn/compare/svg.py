"""Drawings by matplotlib as SVG that takes colours and font from the style sheet of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from tvm_qnn.errors import InputError

INK, MUTED, LINE = "#010101", "#010102", "#010103"
"""Stand for colours of the style sheet: text, secondary text, lines."""
SERIES = tuple(f"#0201{i:02d}" for i in range(8))
"""Stand for a palette that people with any kind of colour vision can tell apart."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def check_plots() -> None:
    """Refuse to plot where matplotlib is missing.

    Raises:
        InputError: it is.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--report needs matplotlib for its plots: pip install 'tvm-qnn[plot]'"
        ) from error


def drawn(draw: Callable[[Any], None], height: float, salt: str) -> str:
    """Draw a figure and return its SVG element, coloured by the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Identifiers of several drawings share one page.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure((7.2, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1, flags=re.S)
    # Groups of several drawings would have the same names.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    names = {INK: "--ink", MUTED: "--muted", LINE: "--line"}
    names |= {colour: f"--s{i}" for i, colour in enumerate(SERIES)}
    for colour, name in names.items():
        text = text.replace(colour, f"var({name})")
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", text)
