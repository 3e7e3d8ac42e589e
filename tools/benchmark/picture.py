"""The results as pictures: bars, one panel for each operation.  Pure; plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal, NamedTuple

from tools.benchmark.cases import OPERATIONS, Case, Operation
from tools.benchmark.results import Results

WIDTH = 860
PANEL_HEIGHT = 250
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 60, 34, 30
LEGEND_ROW = 20
LEGEND_COLUMNS = 4
GRID_LINES = 4
COLOURS = (
    "#9aa0a6",  # the floor, grey; then a palette that colour-blind eyes can tell apart
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#e69f00",
    "#cc79a7",
    "#f0e442",
    "#000000",
)
TITLES: dict[Operation, str] = {
    "put": "put by GET",
    "post": "put by POST",
    "get": "get",
}


class Panel(NamedTuple):
    """`groups`: a label, and a height for each name (None: no bar)."""

    title: str
    groups: list[tuple[str, list[float | None]]]


Figure = Literal["rate", "cpu_us"]
FIGURES: dict[Figure, str] = {
    "rate": "requests a second (more is better)",
    "cpu_us": "us of the server's processor a request (less is better)",
}


def panels(results: Results, size: int, figure: Figure) -> list[Panel]:
    """One for each operation; its groups are the numbers of connections."""
    names = results.names()
    found = []
    for operation in OPERATIONS:
        groups = [
            (
                f"{case.connections} connections",
                [_value(results, case, name, figure) for name in names],
            )
            for case in results.cases()
            if (case.operation, case.size, case.closes) == (operation, size, False)
        ]
        if groups:
            found.append(Panel(f"{TITLES[operation]}, {size} B: {FIGURES[figure]}", groups))
    return found


def _value(results: Results, case: Case, name: str, figure: Figure) -> float | None:
    sample = results.median(case, name)
    value: float = 0.0 if sample is None else getattr(sample, figure)
    return value or None


def draw(names: Sequence[str], shown: Sequence[Panel]) -> str:
    """A whole SVG document."""
    legend_rows = -(-len(names) // LEGEND_COLUMNS)
    top = legend_rows * LEGEND_ROW + 10
    height = top + PANEL_HEIGHT * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend(names),
    ]
    for number, panel in enumerate(shown):
        parts += _panel(panel, top + number * PANEL_HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        row, column = divmod(number, LEGEND_COLUMNS)
        x = MARGIN_LEFT + column * (WIDTH - MARGIN_LEFT) // LEGEND_COLUMNS
        y = 10 + row * LEGEND_ROW
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_colour(number)}"/>')
        parts.append(f'<text x="{x + 17}" y="{y + 10}">{escape(name)}</text>')
    return parts


def _panel(panel: Panel, top: int) -> list[str]:
    base = top + PANEL_HEIGHT - MARGIN_BOTTOM
    full = base - top - MARGIN_TOP
    highest = max(value or 0.0 for _, values in panel.groups for value in values) or 1.0
    parts = [
        f'<text x="{MARGIN_LEFT}" y="{top + 18}" font-weight="bold">{escape(panel.title)}</text>'
    ]
    for line in range(GRID_LINES + 1):
        y = base - full * line // GRID_LINES
        parts.append(
            f'<line x1="{MARGIN_LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            f'<text x="{MARGIN_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="#555">'
            f"{highest * line / GRID_LINES:,.0f}</text>"
        )
    group_width = (WIDTH - 10 - MARGIN_LEFT) / len(panel.groups)
    for number, (label, values) in enumerate(panel.groups):
        left = MARGIN_LEFT + number * group_width
        bar = group_width * 0.85 / len(values)
        for place, value in enumerate(values):
            if value is not None:
                tall = full * value / highest
                x = left + group_width * 0.075 + place * bar
                parts.append(
                    f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{bar * 0.9:.1f}" '
                    f'height="{tall:.1f}" fill="{_colour(place)}">'
                    f"<title>{value:,.0f}</title></rect>"
                )
        middle = left + group_width / 2
        parts.append(f'<text x="{middle:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
    return parts


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
