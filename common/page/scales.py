"""From numbers to places on a chart: round ticks, and lines of SVG for a frame with two axes.

Units of places are those of the chart's view box, x to the right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

# In the view box of a chart with two axes: room for ticks at the left and below, a legend above.
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 34, 46
_HALF_LETTER = 3.5


def ticks_between(low: float, high: float, *, most: int = 6) -> tuple[float, ...]:
    """Round numbers that enclose [low, high], evenly spaced, at most `most` + 2 of them.

    >>> ticks_between(0.613, 0.79)
    (0.6, 0.65, 0.7, 0.75, 0.8)
    """
    # Numbers that differ by rounding alone are one.
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    return _multiples(_round_step((high - low) / most, (1, 2, 2.5, 5, 10)), low, high)


def whole_ticks(low: int, high: int, *, most: int = 6) -> tuple[float, ...]:
    """As `ticks_between`, of whole numbers: there is no half of a round.

    >>> whole_ticks(0, 3), whole_ticks(3, 16)
    ((0.0, 1.0, 2.0, 3.0), (0.0, 5.0, 10.0, 15.0, 20.0))
    """
    high = max(high, low + 1)
    return _multiples(max(_round_step((high - low) / most, (1, 2, 5, 10)), 1.0), low, high)


def _round_step(rough: float, multipliers: Sequence[float]) -> float:
    """The least round number that is not below `rough` (> 0)."""
    magnitude = 10.0 ** floor(log10(rough))
    return next(m * magnitude for m in multipliers if m * magnitude >= rough * 0.999999)


def _multiples(step: float, low: float, high: float) -> tuple[float, ...]:
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(float(f"{n * step:.10g}") for n in range(first, last + 1))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The area of a chart: which numbers its edges stand for."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        """The place of a number on the x axis."""
        return _place(value, self.x_ticks, LEFT, WIDTH - RIGHT)

    def y(self, value: float) -> float:
        """The place of a number on the y axis, which points up."""
        return _place(value, self.y_ticks, HEIGHT - BOTTOM, TOP)

    def axes(self, x_label: str, y_label: str) -> Markup:
        """Grid, ticks, and what the axes stand for."""
        bottom = HEIGHT - BOTTOM
        parts = [
            Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, self.y(y), WIDTH - RIGHT)
            for y in self.y_ticks
        ]
        parts += [
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
                LEFT - 7, round(self.y(y) + 4, 1), label_of(y)
            )
            for y in self.y_ticks
        ]
        parts += [
            Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(
                # A long label of the last tick would go over the edge.
                min(self.x(x), WIDTH - _HALF_LETTER * len(label_of(x))),
                bottom + 17,
                label_of(x),
            )
            for x in self.x_ticks
        ]
        parts.append(
            Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, WIDTH - RIGHT)
        )
        parts.append(
            Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label
            )
        )
        parts.append(
            Markup(
                '<text class="tick mid" transform="translate(14 {}) rotate(-90)">{}</text>'
            ).format((TOP + bottom) / 2, y_label)
        )
        return Markup("").join(parts)


def label_of(value: float) -> str:
    """A tick as charts write it.

    >>> label_of(0.25), label_of(12000.0), label_of(1e-5)
    ('0.25', '12,000', '1e-05')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    part = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return round(start + min(max(part, 0.0), 1.0) * (end - start), 1)
