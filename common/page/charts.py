"""Charts as SVG in a frame of two axes: lines over rounds, and calibration.

Guarantees:
    - Every chart has a name and a description for those who cannot see it, and all of its numbers
      as a table.
    - Every text in it is escaped.
    - Colours come from the page's style sheet, so a chart follows the reader's colour scheme.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from markupsafe import Markup

from common.page.document import Chart, Table
from common.page.scales import HEIGHT, LEFT, WIDTH, Frame, ticks_between, whole_ticks

# More rounds than pixels would only make the file longer.
_MOST_POINTS = 150
LOOKS = ("main", "second", "third", "faint")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; a None is a gap.

    Attributes:
        look: one of `LOOKS`: the last is thin and has no place in the legend.
        legend: what the legend calls it and others that look like it; "" is its name.
    """

    name: str
    values: Sequence[float | None]
    look: str = "main"
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Patients of about the same predicted probability: how often it happened, in which range."""

    low: float
    high: float
    num_patients: float
    predicted: float
    observed: float
    interval: tuple[float, float]


def line_chart(
    title: str,
    *,
    x: Sequence[float],
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    description: str,
    from_zero: bool = False,
) -> Chart:
    """Lines over ascending numbers, such as rounds; there is one at least."""
    kept = _thinned(len(x))
    x = [x[i] for i in kept]
    lines = [replace(line, values=[line.values[i] for i in kept]) for line in lines]
    known = [v for line in lines for v in line.values if v is not None]
    low = min(0.0, *known) if from_zero else min(known)
    frame = Frame(x_ticks=_x_ticks(x), y_ticks=ticks_between(low, max(known)))
    # Thin lines come first, below the thick ones.
    drawn = [_line(frame, x, line) for line in sorted(lines, key=lambda n: -LOOKS.index(n.look))]
    body = frame.axes(x_label, y_label) + Markup("").join(drawn) + _legend(lines)
    rows = [(f"{n:.8g}", *(number_text(line.values[i]) for line in lines)) for i, n in enumerate(x)]
    head = (x_label, *(line.name for line in lines))
    return chart_of(title, description, body, HEIGHT, Table(caption=title, head=head, rows=rows))


def calibration_chart(title: str, *, bins: Sequence[Bin], description: str) -> Chart:
    """How often it happened over how probable it was said to be; both are equal on the diagonal."""
    ticks = ticks_between(0.0, 1.0, most=5)
    frame = Frame(x_ticks=ticks, y_ticks=ticks)
    parts = [frame.axes("predicted probability", "observed frequency")]
    parts.append(
        Markup('<path class="guide" d="M{} {}L{} {}"/>').format(
            frame.x(0), frame.y(0), frame.x(1), frame.y(1)
        )
    )
    points = " ".join(f"{frame.x(b.predicted)},{frame.y(b.observed)}" for b in bins)
    parts.append(Markup('<polyline class="line main" points="{}"/>').format(points))
    for b in bins:
        place = frame.x(b.predicted)
        low, high = (frame.y(end) for end in b.interval)
        whisker = Markup('<path class="whisker" d="M{} {}V{}"/>').format(place, low, high)
        dot = Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(
            place, frame.y(b.observed)
        )
        parts.append(whisker + dot)
    rows = [
        (
            f"{b.low:.2f} to {b.high:.2f}",
            f"{b.num_patients:,.0f}",
            f"{b.predicted:.3f}",
            f"{b.observed:.3f}",
            f"{b.interval[0]:.3f} to {b.interval[1]:.3f}",
        )
        for b in bins
    ]
    head = ("predicted between", "patients", "mean predicted", "observed", "95 % interval")
    table = Table(caption=title, head=head, rows=rows)
    return chart_of(title, description, Markup("").join(parts), HEIGHT, table)


def number_text(value: float | None) -> str:
    """A number in a chart's table.

    >>> number_text(0.98765), number_text(4200.0), number_text(None)
    ('0.988', '4,200', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3f}"


def chart_of(title: str, description: str, body: Markup, height: float, table: Table) -> Chart:
    """A chart from what is drawn in it, named and described for those who cannot see it."""
    # Equal charts may share a name; different ones in a page must not.
    key = sha256(f"{title}\0{description}\0{body}".encode(errors="replace")).hexdigest()[:10]
    svg = Markup(
        '<svg role="img" viewBox="0 0 {} {}" aria-labelledby="t{} d{}">'
        '<title id="t{}">{}</title><desc id="d{}">{}</desc>{}</svg>'
    ).format(WIDTH, height, key, key, key, title, key, description, body)
    return Chart(title=title, svg=svg, table=table)


def _x_ticks(x: Sequence[float]) -> tuple[float, ...]:
    """There is no half of a round, but of a year there is."""
    if all(n == int(n) for n in x):
        return whole_ticks(int(x[0]), int(x[-1]))
    return ticks_between(x[0], x[-1])


def _line(frame: Frame, x: Sequence[float], line: Line) -> Markup:
    """A path with a gap where there is no value; a value alone is a dot."""
    steps, is_down = [], False
    for n, value in zip(x, line.values, strict=True):
        if value is not None:
            steps.append(f"{'L' if is_down else 'M'}{frame.x(n)} {frame.y(value)}")
        is_down = value is not None
    path = Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(
        line.look, "".join(steps), line.name
    )
    known = [(n, v) for n, v in zip(x, line.values, strict=True) if v is not None]
    if len(known) != 1 or line.look == "faint":
        return path
    (n, value), *_ = known
    return Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(frame.x(n), frame.y(value))


def _legend(lines: Sequence[Line]) -> Markup:
    """What thick lines are called, above the frame, and one word for all thin ones."""
    named = [(line.legend or line.name, line.look) for line in lines if line.look != "faint"]
    named = list(dict.fromkeys(named))
    if any(line.look == "faint" for line in lines):
        named.append(("each hospital", "faint"))
    return legend_of(named)


def legend_of(named: Sequence[tuple[str, str]]) -> Markup:
    """Lines by name and look, side by side above the frame."""
    parts, left = [], float(LEFT)
    for name, look in named:
        parts.append(
            Markup(
                '<path class="line {}" d="M{} 14h22"/><text class="tick" x="{}" y="18">{}</text>'
            ).format(look, left, left + 28, name)
        )
        left += 28 + 7.1 * len(name) + 14
    return Markup("").join(parts)


def _thinned(count: int) -> list[int]:
    """Which of so many points are kept: evenly spaced, and always the last."""
    every = -(-count // _MOST_POINTS)
    return [*range(0, count - 1, every), count - 1]
