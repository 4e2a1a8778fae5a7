"""Charts that an explanation needs beside those of reports: curves with steps, clouds, pictures.

As `common.page.charts`: named, described, with their numbers as a table, every text escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from client.explain.pictures import Picture
from common.page.charts import chart_of, legend_of
from common.page.document import Chart, Table
from common.page.scales import HEIGHT, WIDTH, Frame, ticks_between

_RADIUS = 2.6
_PER_ROW, _PICTURE, _GAP, _LINE = 2, 100, 6, 15
_LONGEST_TEXT = 30


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points joined by a line.

    Attributes:
        look: "main", "second" or "third".
        is_step: whether it stays level until the next point.
        intervals: whiskers, each by its place and its two ends.
    """

    name: str
    points: Sequence[tuple[float, float]]
    look: str = "main"
    is_step: bool = False
    intervals: Sequence[tuple[float, float, float]] = ()


def curve_chart(
    title: str,
    *,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    description: str,
    table: Table,
) -> Chart:
    """Curves of parts of a whole, from 0 to 1, over numbers from 0."""
    farthest = max(x for curve in curves for x, _ in curve.points)
    frame = Frame(x_ticks=ticks_between(0.0, farthest), y_ticks=ticks_between(0.0, 1.0, most=5))
    parts = [frame.axes(x_label, y_label)]
    parts += [_curve(frame, curve) for curve in curves]
    parts.append(legend_of([(curve.name, curve.look) for curve in curves]))
    return chart_of(title, description, Markup("").join(parts), HEIGHT, table)


def cloud_chart(
    title: str,
    *,
    points: Sequence[tuple[float, float]],
    x_label: str,
    y_label: str,
    guide: str,
    description: str,
    table: Table,
) -> Chart:
    """A dot for each patient.

    Args:
        guide: "diagonal", on which both numbers are equal, or "zero", the level line there.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if guide == "diagonal":
        ticks = ticks_between(min(*xs, *ys), max(*xs, *ys))
        frame = Frame(x_ticks=ticks, y_ticks=ticks)
        ends = ((ticks[0], ticks[0]), (ticks[-1], ticks[-1]))
    else:
        x_ticks = ticks_between(min(xs), max(xs))
        frame = Frame(x_ticks=x_ticks, y_ticks=ticks_between(min(0.0, *ys), max(0.0, *ys)))
        ends = ((x_ticks[0], 0.0), (x_ticks[-1], 0.0))
    (x0, y0), (x1, y1) = ends
    line = Markup('<path class="guide" d="M{} {}L{} {}"/>').format(
        frame.x(x0), frame.y(y0), frame.x(x1), frame.y(y1)
    )
    dots = [
        Markup('<circle class="dot" cx="{}" cy="{}" r="{}"/>').format(
            frame.x(x), frame.y(y), _RADIUS
        )
        for x, y in points
    ]
    body = frame.axes(x_label, y_label) + line + Markup("").join(dots)
    return chart_of(title, description, body, HEIGHT, table)


def picture_chart(
    title: str, *, pictures: Sequence[Picture], first: int, description: str
) -> Chart:
    """A contact sheet: each picture plain and overlaid, with prediction and outcome below.

    Args:
        first: how many pictures stand before these.
    """
    height, width = pictures[0].size
    tall = round(_PICTURE * height / width, 1)
    row_height = tall + 3 * _LINE + 14
    parts = []
    for n, picture in enumerate(pictures):
        left = (n % _PER_ROW) * (WIDTH / _PER_ROW) + 2
        top = 4 + (n // _PER_ROW) * row_height
        parts += [
            Markup('<image x="{}" y="{}" width="{}" height="{}" href="{}"/>').format(
                left + k * (_PICTURE + _GAP), round(top, 1), _PICTURE, tall, source
            )
            for k, source in enumerate((picture.plain, picture.overlaid))
        ]
        lines = (
            ("name", f"{first + n + 1}. {picture.patient_id}"),
            ("tick", f"predicted {picture.predicted}"),
            ("tick", f"was {picture.outcome}"),
        )
        parts += [
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                look, left, round(top + tall + _LINE * (k + 1), 1), _short(text)
            )
            for k, (look, text) in enumerate(lines)
        ]
    num_rows = -(-len(pictures) // _PER_ROW)
    rows = [
        (f"{first + n + 1}. {p.patient_id}", p.predicted, p.outcome, f"{p.miss:.3g}")
        for n, p in enumerate(pictures)
    ]
    table = Table(
        caption=title, head=("patient", "predicted", "was", "miss"), rows=rows, is_words=True
    )
    body = Markup("").join(parts)
    return chart_of(title, description, body, 8 + num_rows * row_height, table)


def _curve(frame: Frame, curve: Curve) -> Markup:
    steps, last_y = [], None
    for x, y in curve.points:
        if last_y is not None and curve.is_step:
            steps.append(f"L{frame.x(x)} {frame.y(last_y)}")
        steps.append(f"{'M' if last_y is None else 'L'}{frame.x(x)} {frame.y(y)}")
        last_y = y
    path = Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(
        curve.look, "".join(steps), curve.name
    )
    whiskers = [
        Markup('<path class="whisker" d="M{} {}V{}"/>').format(
            frame.x(x), frame.y(low), frame.y(high)
        )
        for x, low, high in curve.intervals
    ]
    return path + Markup("").join(whiskers)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
