"""Charts as SVG with a row for each name: dots by hospital, and bars.

Guarantees:
    - As those of `common.page.charts`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.page.charts import chart_of, number_text
from common.page.document import Chart, Table
from common.page.scales import TOP, WIDTH, label_of, ticks_between

_ROW, _NAMES = 26, 132
_LONGEST_NAME = 18


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a chart of dots: a value, and how far to both sides it may be off."""

    name: str
    value: float
    sd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: which part of its track it fills, from 0 to 1, and what is written behind it."""

    name: str
    part: float
    text: str


def dot_chart(
    title: str,
    *,
    dots: Sequence[Dot],
    reference: float | None,
    bounds: tuple[float, float],
    label: str,
    description: str,
    rows_are: str = "hospital",
    sd_is: str = "± noise",
) -> Chart:
    """A value of each hospital, one row each, beside a line at `reference`.

    Args:
        bounds: beyond which the quantity cannot be, whatever the noise.
        rows_are: what has a row.
        sd_is: what a dot's standard deviation is of.
    """
    ends = [end for dot in dots for end in _ends(dot, bounds)]
    ends += [] if reference is None else [reference]
    ticks = ticks_between(min(ends), max(ends), most=4)
    height = TOP + _ROW * len(dots) + 24

    def place(value: float) -> float:
        return round(
            _NAMES + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - 20 - _NAMES), 1
        )

    bottom = height - 22
    parts = [
        Markup(
            '<path class="grid" d="M{0} {1}V{2}"/><text class="tick mid" x="{0}" y="{3}">{4}'
        ).format(place(t), TOP - 8, bottom, height - 6, label_of(t))
        + Markup("</text>")
        for t in ticks
    ]
    parts.append(Markup('<text class="tick" x="{}" y="14">{}</text>').format(_NAMES, label))
    if reference is not None:
        parts.append(
            Markup('<path class="guide" d="M{} {}V{}"/>').format(place(reference), TOP - 8, bottom)
        )
    parts += [_dot(dot, bounds, place, TOP + _ROW * (n + 0.5)) for n, dot in enumerate(dots)]
    has_sd = any(dot.sd is not None for dot in dots)
    # What stands behind the first words is of the picture.
    head = (rows_are, label.partition(";")[0], sd_is)[: 3 if has_sd else 2]
    rows = [(d.name, number_text(d.value), number_text(d.sd))[: len(head)] for d in dots]
    table = Table(caption=title, head=head, rows=rows)
    return chart_of(title, description, Markup("").join(parts), height, table)


def bar_chart(title: str, *, bars: Sequence[Bar], description: str, table: Table) -> Chart:
    """A bar for each name on a track of the same length."""
    height = 12 + _ROW * len(bars)
    width = WIDTH - _NAMES - 104
    parts = []
    for n, bar in enumerate(bars):
        middle = 6 + _ROW * (n + 0.5)
        parts.append(_row_name(bar.name, middle))
        parts += [
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="12" rx="3"/>').format(
                look, _NAMES, middle - 6, round(long * width, 1)
            )
            for look, long in (("track", 1.0), ("bar", min(max(bar.part, 0.0), 1.0)))
        ]
        parts.append(
            Markup('<text class="tick" x="{}" y="{}">{}</text>').format(
                _NAMES + width + 8, middle + 4, bar.text
            )
        )
    return chart_of(title, description, Markup("").join(parts), height, table)


def _ends(dot: Dot, bounds: tuple[float, float]) -> tuple[float, float]:
    """Where a dot can be for its noise: 95 % of a normal distribution, as far as there is room."""
    far = 1.96 * (dot.sd or 0.0)
    return max(dot.value - far, bounds[0]), min(dot.value + far, bounds[1])


def _dot(
    dot: Dot, bounds: tuple[float, float], place: Callable[[float], float], middle: float
) -> Markup:
    parts = [_row_name(dot.name, middle)]
    if dot.sd is not None:
        ends = [place(end) for end in _ends(dot, bounds)]
        parts.append(Markup('<path class="whisker" d="M{1} {0}H{2}"/>').format(middle, *ends))
    parts.append(
        Markup('<circle class="dot" cx="{}" cy="{}" r="5.5"/>').format(place(dot.value), middle)
    )
    return Markup("").join(parts)


def _row_name(name: str, middle: float) -> Markup:
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return Markup('<text class="name" x="2" y="{}">{}</text>').format(middle + 4, short)
