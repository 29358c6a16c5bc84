"""Bar charts of measurements: as SVG for a file, as text for a terminal.

A chart is groups of horizontal bars on one scale that begins at 0.  A bar may have a goal, drawn as
a line across it.  Colours stay apart for the colour-blind, on a ground of their own, so that the
file looks the same on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import msgspec

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
GROUND, INK, FAINT, GOAL = "#ffffff", "#1a1a1a", "#6b6b6b", "#b00020"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

WIDTH, MARGIN, LABEL, VALUE = 760, 24, 190, 170  # pixels; of labels and of values beside the bars
BAR, GAP, GROUP_GAP = 18, 3, 14
HEAD, LEGEND, FOOT = 62, 24, 18
TEXT_WIDTH = 40  # characters of the longest bar


class Bar(msgspec.Struct, frozen=True):
    """`text` is written behind the bar; `series` is an index into the chart's names."""

    value: float
    text: str
    series: int = 0
    goal: float | None = None


class Group(msgspec.Struct, frozen=True):
    label: str
    bars: tuple[Bar, ...]


class Chart(msgspec.Struct, frozen=True):
    title: str
    subtitle: str
    series: tuple[str, ...]  # as many as COLOURS at most; more than one makes a legend
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    goal: str = ""  # what the legend calls the goals' lines


def svg(chart: Chart) -> str:
    """The chart as an SVG document."""
    scale = (WIDTH - 2 * MARGIN - LABEL - VALUE) / _longest(chart)
    body, y = _bars(chart, scale, HEAD + (LEGEND if _has_legend(chart) else 0))
    y += GROUP_GAP
    for note in chart.notes:
        y += FOOT
        body.append(_text(MARGIN, y, note, size=12, colour=FAINT))
    height = y + MARGIN
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="{FONT}" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{GROUND}"/>',
        _text(MARGIN, 32, chart.title, size=18, weight=600),
        _text(MARGIN, 51, chart.subtitle, size=12, colour=FAINT),
        *(_legend(chart) if _has_legend(chart) else ()),
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def _bars(chart: Chart, scale: float, top: int) -> tuple[list[str], int]:
    """The elements of all groups, and the y below the last."""
    parts: list[str] = []
    left, y = MARGIN + LABEL, top
    for group in chart.groups:
        y += GROUP_GAP
        middle = y + (len(group.bars) * (BAR + GAP) - GAP) / 2 + 5
        parts.append(_text(left - 10, middle, group.label, anchor="end"))
        for bar in group.bars:
            colour, length = COLOURS[bar.series], max(1.0, bar.value * scale)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
            )
            end = length
            if bar.goal is not None:
                x = left + bar.goal * scale
                parts.append(
                    f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + BAR + 2}" '
                    f'stroke="{GOAL}" stroke-width="2"/>'
                )
                end = max(length, bar.goal * scale)
            parts.append(_text(left + end + 8, y + 14, bar.text))
            y += BAR + GAP
        y -= GAP
    parts.append(
        f'<line x1="{left}" x2="{left}" y1="{top + GROUP_GAP - 4}" y2="{y + 4}" stroke="{FAINT}"/>'
    )
    return parts, y


def _legend(chart: Chart) -> Iterator[str]:
    x, y = MARGIN + LABEL, HEAD + 12
    for i, name in enumerate(chart.series):
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLOURS[i]}"/>'
        yield _text(x + 18, y, name, size=12)
        x += 40 + 7 * len(name)
    if chart.goal:
        yield (
            f'<line x1="{x + 6}" x2="{x + 6}" y1="{y - 12}" y2="{y + 4}" '
            f'stroke="{GOAL}" stroke-width="2"/>'
        )
        yield _text(x + 16, y, chart.goal, size=12)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    colour: str = INK,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def text_chart(chart: Chart) -> str:
    """The chart in block characters, without its notes."""
    scale = TEXT_WIDTH / _longest(chart)
    width = max(len(group.label) for group in chart.groups)
    named = max(map(len, chart.series)) if _has_legend(chart) else 0
    lines = []
    for group in chart.groups:
        for i, bar in enumerate(group.bars):
            label = group.label if i == 0 else ""
            name = f"{chart.series[bar.series]:<{named}}  " if named else ""
            lines.append(f"{label:<{width}}  {name}{_blocks(bar.value * scale)} {bar.text}")
    return "\n".join(lines)


def _blocks(length: float) -> str:
    full, rest = divmod(max(1, round(length * 8)), 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def _has_legend(chart: Chart) -> bool:
    return len(chart.series) > 1


def _longest(chart: Chart) -> float:
    """What the scale must have room for; never 0."""
    values: Sequence[float] = [
        max(bar.value, bar.goal or 0.0) for group in chart.groups for bar in group.bars
    ]
    return max(values, default=0.0) or 1.0
