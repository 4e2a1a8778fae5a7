"""What predictions rest on, and where the model looks: charts and tables for the page."""

from collections.abc import Mapping, Sequence

import numpy as np

from client.attributions import TOLERANCE, Attributions
from client.explain.attention import ITSELF, Attention
from client.explain.charts import picture_chart
from client.explain.page.words import gap_text
from client.explain.pictures import MOST_PICTURES, Picture
from client.explain.reliance import Reliance
from client.explain.subject import Subject
from common.granularities import ImagesGranularity
from common.metrics.attributions import score_name
from common.models.fusion import AttentionFusion
from common.page.document import Block, Chart, Charts, Heading, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.page.words import several, size_text

_MOST_FEATURES = 12
_PER_CHART = MOST_PICTURES // 2
_LONGEST_NAME = 17
_BASELINE = (
    "Features are measured against a patient of whom the same things were measured, each number at "
    "the centre by which the study normalises it, each category, word and picture the average of "
    "this hospital's training patients (integrated gradients). "
    "Granularities are measured against their absence, in every order of joining (exact Shapley "
    "values). The two answer different questions and need not agree. Neither says what would "
    "happen to a patient whose values were changed."
)


def reliance_section(subject: Subject, found: Mapping[str, Reliance]) -> Section:
    """What the predictions of each outcome rest on."""
    blocks: list[Block] = [Paragraph(text=_BASELINE)]
    for name, reliance in found.items():
        blocks += _outcome(subject, name, reliance)
    return Section(key="reliance", title="What the predictions rest on", blocks=blocks)


def _outcome(subject: Subject, name: str, reliance: Reliance) -> list[Block]:
    score = score_name(subject.study.outcomes[name])
    charts = [_granularity_chart(subject, name, reliance)] if reliance.shapley else []
    charts.append(_feature_chart(name, reliance.attributions, score))
    return [
        Heading(text=f"{name}: {score}"),
        Charts(charts=charts),
        _feature_table(name, reliance),
        _completeness(name, reliance),
    ]


def _granularity_chart(subject: Subject, name: str, reliance: Reliance) -> Chart:
    """The mean size of Shapley values of each granularity, over the patients who have it."""
    shapley_BG = np.abs(reliance.shapley[name].granularities_BG[reliance.index])
    gradient_BG = np.abs(reliance.attributions.by_granularity(list(subject.study.granularities)))
    rows, sizes = [], []
    for g, granularity in enumerate(subject.study.granularities):
        has_B = reliance.present_BG[:, g]
        size = float(shapley_BG[has_B, g].mean()) if has_B.any() else 0.0
        summed = float(gradient_BG[has_B, g].mean()) if has_B.any() else 0.0
        sizes.append((granularity, size))
        rows.append((granularity, f"{has_B.sum():,}", size_text(size), size_text(summed)))
    rows.sort(key=lambda row: -dict(sizes)[row[0]])
    table = Table(
        caption=f"{name}: granularities",
        head=(
            "granularity",
            "patients who have it",
            "mean |Shapley value|",
            "mean |sum of features|",
        ),
        rows=rows,
    )
    return _bars(
        f"{name}: what each granularity adds",
        sizes,
        "Mean size of the Shapley value of each granularity, over the patients who have it.",
        table,
    )


def _feature_chart(name: str, found: Attributions, score: str) -> Chart:
    sizes = _sizes(found)[:_MOST_FEATURES]
    table = Table(
        caption=f"{name}: features",
        head=("feature", "mean |attribution|"),
        rows=[(feature, size_text(size)) for feature, size in sizes],
    )
    return _bars(
        f"{name}: the features that move it most",
        sizes,
        f"Mean size of the attribution of each feature to the {score}, of all explained patients.",
        table,
    )


def _feature_table(name: str, reliance: Reliance) -> Table:
    found = reliance.attributions
    size_F = np.abs(found.value_BF).mean(axis=0)
    order = [int(f) for f in np.argsort(-size_F, kind="stable")[:_MOST_FEATURES]]
    return Table(
        caption=f"{name}: which way the score goes",
        head=("feature", "granularity", "mean |attribution|", "the score"),
        rows=[
            (
                feature_name(found, f),
                found.features[f][0],
                size_text(float(size_F[f])),
                reliance.directions[f] or "–",
            )
            for f in order
        ],
        is_words=True,
    )


def _completeness(name: str, reliance: Reliance) -> Paragraph:
    found = reliance.attributions
    gap = found.largest_gap
    text = (
        f"Checked: of all {several(len(reliance.index), 'explained patient')}, the attributions of "
        "features add up to the score minus the score at the baseline; the largest gap is "
        f"{gap_text(gap)} of what there is to add up ({found.num_steps} steps at most)."
    )
    if reliance.shapley:
        text += (
            " The Shapley values add up to the score minus the score without any granularity; the "
            f"largest gap is {gap_text(reliance.shapley_gap(name))} of it."
        )
    if gap > 2 * TOLERANCE:
        text += " That is more than it should be: do not rely on small differences."
    return Paragraph(text=text, look="warn" if gap > 2 * TOLERANCE else "note")


def attention_section(subject: Subject, found: Sequence[Attention]) -> Section:
    """Where the fusion looks; no block for a study whose fusion has no attention."""
    if not isinstance(subject.model.fusion, AttentionFusion) or not found:
        return Section(key="attention", title="Attention", blocks=[])
    names = [ITSELF, *subject.study.granularities]
    whole = found[0].weights
    chart = _bars(
        "Mean attention of all held-out patients",
        [(name, whole[name]) for name in names],
        "How much the fusion reads from each granularity; the parts add up to 1.",
        Table(
            caption="Mean attention",
            head=("granularity", "attention"),
            rows=[(name, f"{whole[name]:.3f}") for name in names],
        ),
        is_sorted=False,
    )
    table = Table(
        caption="Mean attention by what became of the patients",
        head=("patients", "how many", *names),
        rows=[
            (a.group, f"{a.num_patients:,}", *(f"{a.weights[n]:.3f}" for n in names)) for a in found
        ],
        note=f"{ITSELF} is what the fusion reads of itself, whatever the patient has. Attention is "
        "not importance: a granularity may be read much and change little.",
    )
    return Section(key="attention", title="Attention", blocks=[Charts(charts=[chart]), table])


def pictures_section(subject: Subject, sheets: Mapping[str, Sequence[Picture]]) -> Section:
    """The contact sheets; no block where nobody has a picture."""
    blocks: list[Block] = []
    name = next(iter(subject.study.outcomes))
    for granularity, pictures in sheets.items():
        if not isinstance(subject.study.granularities[granularity], ImagesGranularity):
            continue
        if not pictures:
            continue
        title = f"{granularity}, worst misses of {name} first"
        description = (
            "Each picture as the model sees it, and again with what each place adds to the score: "
            "orange raises it, blue lowers it."
        )
        blocks.append(Paragraph(text=description))
        halves = [pictures[start : start + _PER_CHART] for start in (0, _PER_CHART)]
        charts = [
            picture_chart(
                f"{title}: {n * _PER_CHART + 1} to {n * _PER_CHART + len(half)}",
                pictures=half,
                first=n * _PER_CHART,
                description=description,
            )
            for n, half in enumerate(halves)
            if half
        ]
        blocks.append(Charts(charts=charts))
    return Section(key="pictures", title="Pictures", blocks=blocks)


def feature_name(found: Attributions, column: int) -> str:
    """A feature as people know it; that of a granularity without features is the granularity."""
    granularity, feature = found.features[column]
    is_whole = sum(owner == granularity for owner, _ in found.features) == 1
    return granularity if is_whole and feature in ("picture", "text", "sequence") else feature


def _sizes(found: Attributions) -> list[tuple[str, float]]:
    """The mean size of each feature's attributions, the largest first."""
    size_F = np.abs(found.value_BF).mean(axis=0)
    order = np.argsort(-size_F, kind="stable")
    return [(feature_name(found, int(f)), float(size_F[f])) for f in order]


def _bars(
    title: str,
    sizes: Sequence[tuple[str, float]],
    description: str,
    table: Table,
    *,
    is_sorted: bool = True,
) -> Chart:
    if is_sorted:
        sizes = sorted(sizes, key=lambda pair: -pair[1])
    longest = max((size for _, size in sizes), default=0.0) or 1.0
    bars = [
        Bar(name=_short(name), part=size / longest, text=size_text(size)) for name, size in sizes
    ]
    return bar_chart(title, bars=bars, description=description, table=table)


def _short(name: str) -> str:
    """A name that ends before the bar begins; the table beside it has the whole."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
