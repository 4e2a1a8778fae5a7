"""A chart of curves over a quantity of many magnitudes, with whiskers and lines of reference.

Guarantees:
    - A point lands where its numbers belong on both axes; equal ratios of x are equally far apart.
    - Every number that is drawn stands in the chart's table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

from common.page.charts import chart_of, number_text
from common.page.document import Chart, Table
from common.page.scales import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    label_of,
    ticks_between,
)
from common.page.style import DARK, LIGHT, PICTURE, variables

_LEGEND_ROW = 18
# Whiskers of two curves at the same x stand side by side.
_APART = 5.0
_FEW_DECADES = 2.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value at x > 0, and how far it is spread; neither end where there is no spread."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points in the order of x.

    Attributes:
        look: "main" or "second".
    """

    name: str
    points: Sequence[Point]
    look: str = "main"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A value that does not depend on x.

    Attributes:
        look: "third", "guide" or "faint".
    """

    name: str
    value: float
    look: str = "third"


@dataclass(frozen=True, kw_only=True)
class LogFrame(Frame):
    """A frame whose x axis has equal ratios equally far apart."""

    def x(self, value: float) -> float:
        """The place of a number > 0 on the x axis."""
        first, last = log10(self.x_ticks[0]), log10(self.x_ticks[-1])
        part = (log10(value) - first) / (last - first)
        return round(LEFT + min(max(part, 0.0), 1.0) * (WIDTH - RIGHT - LEFT), 1)


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten that enclose [low, high]; over many decades the powers alone.

    >>> log_ticks(0.5, 8), log_ticks(0.01, 30)
    ((0.5, 1.0, 2.0, 5.0, 10.0), (0.01, 0.1, 1.0, 10.0, 100.0))
    """
    decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
    few = log10(high / low) <= _FEW_DECADES
    ticks = [float(f"{m}e{n}") for n in decades for m in ((1, 2, 5) if few else (1,))]
    first = max((t for t in ticks if t <= low * 1.000001), default=ticks[0])
    last = min((t for t in ticks if t >= high * 0.999999 and t > first), default=ticks[-1])
    return tuple(t for t in ticks if first <= t <= last)


def curve_chart(
    title: str,
    *,
    curves: Sequence[Curve],
    references: Sequence[Reference],
    x_label: str,
    y_label: str,
    description: str,
) -> Chart:
    """Curves with whiskers over a logarithmic axis, and a line for each reference.

    Raises:
        ValueError: no curve has a point.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        raise ValueError("expected a curve with a point, found none")
    ends = [end for p in points for end in (p.y, p.low, p.high) if end is not None]
    ends += [reference.value for reference in references]
    x = [point.x for point in points]
    frame = LogFrame(x_ticks=log_ticks(min(x), max(x)), y_ticks=ticks_between(min(ends), max(ends)))
    legend, down = _legend(curves, references)
    drawn = [_reference(frame, reference) for reference in references]
    drawn += [
        _curve(frame, curve, (n - (len(curves) - 1) / 2) * _APART) for n, curve in enumerate(curves)
    ]
    inner = frame.axes(x_label, y_label) + Markup("").join(drawn)
    body = legend + Markup('<g transform="translate(0 {})">{}</g>').format(down, inner)
    table = _table(title, curves, references, x_label, y_label)
    return chart_of(title, description, body, HEIGHT + down, table)


def svg_file(chart: Chart) -> str:
    """The chart as a file of its own, in the colours of the reader's scheme.

    Guarantees:
        - Equal charts give equal texts, without scripts or requests.
    """
    style = (
        f"{variables(LIGHT)}@media (prefers-color-scheme:dark){{{variables(DARK)}}}{PICTURE}"
        'svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}'
        ".paper{fill:var(--paper)}"
    )
    head, rest = str(chart.svg).split(">", 1)
    paper = '<rect class="paper" width="100%" height="100%"/>'
    end = rest.index("</desc>") + len("</desc>")
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg">{rest[:end]}<style>{style}</style>{paper}'
        f"{rest[end:]}\n"
    )


def _table(
    title: str,
    curves: Sequence[Curve],
    references: Sequence[Reference],
    x_label: str,
    y_label: str,
) -> Table:
    rows = [
        (curve.name, label_of(p.x), number_text(p.y), number_text(p.low), number_text(p.high))
        for curve in curves
        for p in curve.points
    ]
    rows += [(r.name, "–", number_text(r.value), "–", "–") for r in references]
    return Table(caption=title, head=("", x_label, y_label, "low", "high"), rows=rows)


def _curve(frame: Frame, curve: Curve, shift: float) -> Markup:
    places = [(round(frame.x(p.x) + shift, 1), frame.y(p.y)) for p in curve.points]
    steps = "".join(f"{'L' if n else 'M'}{x} {y}" for n, (x, y) in enumerate(places))
    parts = [
        Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(
            curve.look, steps, curve.name
        )
    ]
    for (x, y), point in zip(places, curve.points, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(
                Markup('<path class="whisker of-{}" d="M{} {}V{}"/>').format(
                    curve.look, x, frame.y(point.low), frame.y(point.high)
                )
            )
        parts.append(
            Markup('<circle class="dot of-{}" cx="{}" cy="{}" r="4"/>').format(curve.look, x, y)
        )
    return Markup("").join(parts)


def _reference(frame: Frame, reference: Reference) -> Markup:
    return Markup('<path class="line {}" d="M{} {}H{}"><title>{}</title></path>').format(
        reference.look, LEFT, frame.y(reference.value), WIDTH - RIGHT, reference.name
    )


def _legend(curves: Sequence[Curve], references: Sequence[Reference]) -> tuple[Markup, int]:
    """A row for each name, and how far down the frame must go for them."""
    named = [(c.name, c.look) for c in curves] + [(r.name, r.look) for r in references]
    parts = [
        Markup(
            '<path class="line {}" d="M{} {}h26"/><text class="tick" x="{}" y="{}">{}</text>'
        ).format(look, LEFT, 12 + n * _LEGEND_ROW, LEFT + 34, 16 + n * _LEGEND_ROW, name)
        for n, (name, look) in enumerate(named)
    ]
    down = max(0, len(named) * _LEGEND_ROW + 8 - (TOP - 10))
    return Markup("").join(parts), down
