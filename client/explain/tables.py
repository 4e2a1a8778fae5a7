"""The numbers of an explanation as CSV files, for those who want to go on with them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from client.explain.attention import Attention
from client.explain.calibration import Calibration
from client.explain.decisions import MEASURES, Decision
from client.explain.groups import Group
from client.explain.regression import Quantities
from client.explain.reliance import Reliance
from client.explain.subject import Subject
from client.explain.survival import Survival
from common.metrics.resampling import Estimate
from common.outcomes import SurvivalOutcome

Row = Sequence[object]


def attributions_csv(subject: Subject, name: str, reliance: Reliance) -> str:
    """One line for each explained patient: the score, and what it is made of in both ways."""
    found, index = reliance.attributions, reliance.index
    head = ["patient_id", "score", "score_at_baseline"]
    head += [f"{granularity}.{feature}" for granularity, feature in found.features]
    shapley = reliance.shapley.get(name)
    if shapley is not None:
        head += ["shapley_nothing", *(f"shapley_{g}" for g in subject.study.granularities)]
        head.append("shapley_site")
    rows: list[Row] = []
    for row, b in enumerate(index.tolist()):
        values = [found.score_B[row], found.baseline_B[row], *found.value_BF[row]]
        if shapley is not None:
            values += [shapley.nothing_B[b], *shapley.granularities_BG[b], shapley.site_B[b]]
        rows.append([subject.test.ids[b], *(_number(v) for v in values)])
    return _text(head, rows)


def calibration_csv(found: Mapping[str, Calibration]) -> str:
    """One line for each outcome, version and measure, and for each bin of the curves."""
    head = ["outcome", "version", "what", "patients", "value", "low", "high", "predicted"]
    rows: list[Row] = []
    for name, c in found.items():
        temperature = Estimate(value=c.temperature)
        rows.append([name, "temperature", "temperature", "", *_cells(temperature), ""])
        for version, measures in (("before", c.before), ("after", c.after), ("change", c.change)):
            rows += [
                [name, version, what, c.num_patients, *_cells(e), ""]
                for what, e in measures.items()
            ]
        for version, bins in (("before", c.bins_before), ("after", c.bins_after)):
            for b in bins:
                cells = (_number(v) for v in (b.observed, *b.interval, b.predicted))
                rows.append([name, version, "observed frequency", int(b.num_patients), *cells])
    return _text(head, rows)


def decisions_csv(found: Mapping[str, Sequence[Decision]]) -> str:
    """One line for each way to decide."""
    ends = [f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")]
    rows: list[Row] = [
        [
            name,
            d.name,
            "" if d.threshold is None else _number(d.threshold),
            d.num_patients,
            d.num_flagged,
            *(cell for m in MEASURES for cell in _cells(d.measures[m])),
        ]
        for name, decided in found.items()
        for d in decided
    ]
    return _text(["outcome", "rule", "threshold", "patients", "flagged", *ends], rows)


def groups_csv(found: Mapping[str, Sequence[Group]]) -> str:
    """One line for each measure of each group that is large enough to be judged."""
    rows: list[Row] = [
        [name, g.feature, g.name, g.num_patients, measure, *_cells(e)]
        for name, groups in found.items()
        for g in groups
        for measure, e in g.measures.items()
    ]
    head = ["outcome", "feature", "group", "patients", "measure", "value", "low", "high"]
    return _text(head, rows)


def attention_csv(found: Sequence[Attention]) -> str:
    """One line for each group of patients."""
    names = list(found[0].weights) if found else []
    rows: list[Row] = [
        [a.group, a.num_patients, *(_number(a.weights[n]) for n in names)] for a in found
    ]
    return _text(["patients", "how_many", *names], rows)


def survival_csv(subject: Subject, found: Mapping[str, Survival]) -> str:
    """One line for each third of risk and time of the study."""
    rows: list[Row] = []
    for name, survival in found.items():
        outcome = subject.study.outcomes[name]
        if not isinstance(outcome, SurvivalOutcome):
            continue
        for third in survival.thirds:
            o, predicted_K = third.observed, third.predicted_K
            for k, time in enumerate(outcome.cut_points):
                predicted = "" if predicted_K is None else _number(predicted_K[k])
                cells = (_number(v[k]) for v in (o.survival_K, o.low_K, o.high_K))
                rows.append(
                    [name, third.name, third.num_patients, time, predicted, *cells, o.at_risk_K[k]]
                )
    head = ["outcome", "third", "patients", "time", "predicted"]
    return _text([*head, "observed", "low", "high", "at_risk"], rows)


def quantities_csv(found: Mapping[str, Quantities]) -> str:
    """One line for each patient and outcome."""
    rows: list[Row] = [
        [name, i, _number(predicted), _number(observed)]
        for name, q in found.items()
        for i, predicted, observed in zip(q.ids, q.predicted_B, q.observed_B, strict=True)
    ]
    return _text(["outcome", "patient_id", "predicted", "observed"], rows)


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    value, low, high = (
        "" if v is None else _number(v) for v in (estimate.value, estimate.low, estimate.high)
    )
    return value, low, high


def _number(value: float) -> str:
    """Six digits; empty for what is not defined."""
    return "" if value != value else f"{value:.6g}"


def _text(head: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
