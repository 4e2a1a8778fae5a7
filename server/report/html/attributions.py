"""What predictions rest on: granularities and features, over all hospitals and by hospital."""

from collections.abc import Sequence
from typing import Any

from common.page.document import Block, Chart, Charts, Heading, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.page.words import listed, size_text
from server.report.attributions import by_size, direction_text, name_of
from server.report.html.facts import Facts
from server.report.html.untold import why_untold

_MOST_BARS = 12
_LONGEST_NAME = 17
_WHAT = (
    "Each hospital worked out what the last model's score of each held-out patient is made of "
    "(integrated gradients; of 300 patients at most), and told sums over many patients. A size is "
    "how far a score is from that of an average patient of whom the same was measured, because "
    "of this feature. It says what the model uses, not what causes the outcome, nor what would "
    "happen if a value were changed; of two features that go together it may use either."
)
_PRIVATE = (
    "The study asks what predictions rest on. Because it protects each patient, nothing of it was "
    "released."
)
_NONE = (
    "The study asks what predictions rest on, and no hospital told of it: its policy does not "
    "allow it, or it has too few held-out patients."
)
_NOTE = (
    "Mean over the patients who have it; where few of a hospital's lack it, over those as well, "
    "for whom it is 0. A hospital tells nothing of what fewer patients than its policy's "
    "smallest_group are behind, or one for the most part, and rounds each sum to a 128th. A "
    "granularity is the sum of its features that are told."
)


def attributions(results: dict[str, Any], facts: Facts) -> Section:
    """Charts and tables of each outcome.

    Guarantees:
        - Nothing of a column that no hospital told of is shown.
        - A run under privacy says that nothing was released.
    """
    blocks = why_untold(results, "attributions", "outcomes", private=_PRIVATE, none=_NONE)
    if blocks is None:
        blocks = [Paragraph(text=_WHAT)]
        for name, outcome in results["attributions"]["outcomes"].items():
            blocks += _of_outcome(name, outcome)
    return Section(key="attributions", title="What predictions rest on", blocks=blocks)


def leading_features(results: dict[str, Any], most: int = 3) -> dict[str, list[str]]:
    """The features that move each outcome's score most, the largest first; none untold."""
    found = results.get("attributions") or {"outcomes": {}}
    return {
        outcome: [name_of(entry) for entry in by_size(told["features"] or told["granularities"])][
            :most
        ]
        for outcome, told in found["outcomes"].items()
    }


def _of_outcome(outcome: str, told: dict[str, Any]) -> list[Block]:
    granularities, features = (by_size(told[kind]) for kind in ("granularities", "features"))
    blocks: list[Block] = [Heading(text=f"{outcome}: {told['score']}")]
    num_sites = len({site for entry in granularities + features for site in entry["sites"]})
    charts = [
        _chart(f"{outcome}: {title}", entries, num_sites)
        for title, entries in (
            ("what the granularities add", granularities),
            ("the features that move it most", features[:_MOST_BARS]),
        )
        if entries
    ]
    if not charts:
        text = "Of this outcome, no hospital told of any granularity or feature."
        return [*blocks, Paragraph(text=text, look="note")]
    blocks.append(Charts(charts=charts))
    ways = [entry for entry in features if entry["pooled"]["direction"] is not None]
    if ways:
        blocks.append(_ways(outcome, ways[:_MOST_BARS]))
    return [*blocks, _by_hospital(outcome, granularities + features)]


def _ways(outcome: str, entries: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [name_of(entry), entry["granularity"], direction_text(entry["pooled"]["direction"])]
        for entry in entries
    ]
    return Table(
        caption=f"{outcome}: which way the score goes",
        head=("number", "granularity", "the score"),
        rows=rows,
        is_words=True,
    )


def _chart(title: str, entries: Sequence[dict[str, Any]], num_sites: int) -> Chart:
    sizes = [entry["pooled"]["mean_absolute"] for entry in entries]
    longest = max(sizes) or 1.0
    bars = []
    for entry, size in zip(entries, sizes, strict=True):
        told = len(entry["sites"])
        of_some = f" ({told} of {num_sites})" if told < num_sites else ""
        text = size_text(size) + of_some
        bars.append(Bar(name=_short(name_of(entry)), part=size / longest, text=text))
    table = Table(
        caption=title,
        head=("", "granularity", "hospitals", "patients", "mean size", "mean", "the score"),
        rows=[_row(entry) for entry in entries],
        note=_NOTE,
    )
    names = [name_of(entry) for entry in entries]
    description = (
        "Mean size of what each adds to the score; in brackets how many hospitals told of it, "
        "where not all did. The largest: "
        f"{listed([f'{n} {bar.text}' for n, bar in zip(names, bars, strict=True)], most=3)}."
    )
    return bar_chart(title, bars=bars, description=description, table=table)


def _row(entry: dict[str, Any]) -> list[str]:
    pooled = entry["pooled"]
    return [
        name_of(entry),
        entry["granularity"],
        str(len(entry["sites"])),
        f"{pooled['num_patients']:,.0f}",
        size_text(pooled["mean_absolute"]),
        "–" if pooled["mean"] is None else f"{pooled['mean']:+.3g}",
        direction_text(pooled["direction"]),
    ]


def _by_hospital(outcome: str, entries: Sequence[dict[str, Any]]) -> Table:
    sites = sorted({site for entry in entries for site in entry["sites"]})
    rows = []
    for entry in entries:
        size_by_site = {site: of["mean_absolute"] for site, of in entry["sites"].items()}
        told = [size for size in size_by_site.values() if size is not None]
        ends = f"{size_text(min(told))} to {size_text(max(told))}" if told else "–"
        cells = [size_by_site.get(site) for site in sites]
        name = name_of(entry) if entry["feature"] else f"{entry['granularity']} (as a whole)"
        numbers = ["–" if size is None else size_text(size) for size in cells]
        rows.append([name, ends, *numbers])
    return Table(
        caption=f"{outcome}: mean size by hospital",
        head=("", "lowest to highest", *sites),
        rows=rows,
        summary=f"{outcome}: mean size of each feature, by hospital",
    )


def _short(name: str) -> str:
    """A name that ends before the bar begins; the table has the whole."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
