"""A chart of gains: one row each, a dot with its interval beside the line of no difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.page.charts import chart_of
from common.page.document import Chart, Table
from common.page.scales import TOP, WIDTH, label_of, ticks_between

_ROW, _NAMES = 26, 132
_LONGEST_NAME = 18


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One row: a gain with the ends of its interval.

    Attributes:
        texts: the same for the chart's table: name, gain, interval.
    """

    name: str
    value: float
    low: float
    high: float
    texts: Sequence[str]


def gain_chart(title: str, *, gains: Sequence[Gain], label: str, description: str) -> Chart:
    """Gains beside the line of no difference; there is one at least.

    Guarantees:
        - The line of no difference is always in the picture, and so is the whole of each interval.
        - What the picture shows stands in its table as well.
    """
    ends = [0.0, *(end for gain in gains for end in (gain.low, gain.high))]
    ticks = ticks_between(min(ends), max(ends), most=4)
    height = TOP + _ROW * len(gains) + 24
    bottom = height - 22

    def place(value: float) -> float:
        part = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(_NAMES + part * (WIDTH - 24 - _NAMES), 1)

    parts = [
        Markup(
            '<path class="grid" d="M{0} {1}V{2}"/><text class="tick mid" x="{0}" y="{3}">{4}</text>'
        ).format(place(t), TOP - 8, bottom, height - 6, label_of(t))
        for t in ticks
    ]
    parts.append(Markup('<text class="tick" x="{}" y="14">{}</text>').format(_NAMES, label))
    parts.append(
        Markup('<path class="line third" d="M{} {}V{}"/>').format(place(0.0), TOP - 8, bottom)
    )
    for n, gain in enumerate(gains):
        parts += _row(gain, TOP + _ROW * (n + 0.5), place)
    head = ("", "gain", "95 % interval")
    table = Table(caption=title, head=head, rows=[gain.texts for gain in gains])
    return chart_of(title, description, Markup("").join(parts), height, table)


def _row(gain: Gain, middle: float, place: Callable[[float], float]) -> list[Markup]:
    return [
        Markup('<text class="name" x="2" y="{}">{}</text>').format(
            middle + 4, _shortened(gain.name)
        ),
        Markup('<path class="whisker" d="M{1} {0}H{2}"/>').format(
            middle, place(gain.low), place(gain.high)
        ),
        Markup('<circle class="dot" cx="{}" cy="{}" r="5.5"/>').format(place(gain.value), middle),
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
