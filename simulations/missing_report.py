"""The missing-granularity experiment as files: one tidy CSV, and tables in Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.files import write_atomically
from common.metrics.evaluation import statistics_of
from common.page.words import several
from common.study import Study
from server.report.columns import title_of
from simulations.arms import MEAN, POOLED
from simulations.arms_report import mean_sd
from simulations.lacking import NOTHING, Lacking
from simulations.missing import INTERSECTION, METHODS, OURS, SCOPES, MissingResult, Subset

# By scope, method, subset and seed.
Values = dict[tuple[str, str, Subset, int], float | None]


def write_missing(
    results: Sequence[MissingResult], out: Path, *, study: Study, lacking: Lacking = NOTHING
) -> Path:
    """Writes `missing.csv` and `missing.md`; returns the path of the latter."""
    text = to_markdown(results, study=study, lacking=lacking)
    write_atomically(out / "missing.csv", to_csv(results).encode(), durable=False)
    write_atomically(out / "missing.md", text.encode(), durable=False)
    return out / "missing.md"


def to_csv(results: Sequence[MissingResult]) -> str:
    """One line per method, seed, subset, scope and metric; an undefined metric is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "subset", "scope", "metric", "value"])
    for r in results:
        for metric, value in r.metrics.items():
            cell = "" if value is None else repr(float(value))
            writer.writerow([r.method, r.seed, "+".join(r.subset), r.scope, metric, cell])
    return text.getvalue()


def to_markdown(
    results: Sequence[MissingResult], *, study: Study, lacking: Lacking = NOTHING
) -> str:
    """Tables of all subsets by method, mean ± sd over seeds, and how often ours is best.

    One table of the patients of all hospitals together, and one of the mean over hospitals.

    Args:
        lacking: what hospitals trained without, though they have it.
    """
    outcome, statistics = next(iter(statistics_of(study).items()))
    metric = statistics.columns[0]
    sign = -1 if study.outcomes[outcome].kind == "regression" else 1
    seeds = sorted({r.seed for r in results})
    subsets = list(dict.fromkeys(r.subset for r in results))
    value = {(r.scope, r.method, r.subset, r.seed): r.metrics[metric] for r in results}
    num_patients = {
        r.subset: f"{r.metrics['num_patients'] or 0:.0f}" for r in results if r.scope == POOLED
    }
    unseen = {r.subset for r in results if r.method == INTERSECTION and not r.shown}
    direction = "smaller" if sign < 0 else "larger"
    parts = [
        f"# {study.study.title or study.name}: predicting from some granularities",
        f"{title_of(metric)} of {outcome} ({direction} is better) on the held-out patients who "
        "have all granularities of a row, shown nothing else; mean ± sd over "
        f"{several(len(seeds), 'seed')}. The intersection of what hospitals have sees nothing of "
        f"{len(unseen)} of the {len(subsets)} rows: there it predicts the same for everybody. "
        "Hospitals that train alone have models without a common scale: judge them by the mean of "
        "hospitals.",
    ]
    if lacking:
        parts.append(
            "Hospitals were trained as if none of their patients had what they are to lack: "
            + "; ".join(f"{site} {', '.join(sorted(lacking[site]))}" for site in sorted(lacking))
            + ". Held-out patients keep everything."
        )
    for scope in SCOPES:
        parts.append(f"## {_HEADINGS[scope]}")
        parts.append(_table(value, scope, num_patients, seeds))
        parts.append("\n".join(_sentences(value, scope, subsets, seeds, sign)))
    return "\n\n".join(parts) + "\n"


_HEADINGS = {POOLED: "All patients, pooled", MEAN: "Mean of hospitals, unweighted"}


def _table(
    value: Values, scope: str, num_patients: Mapping[Subset, str], seeds: Sequence[int]
) -> str:
    lines = [f"| granularities | patients | {' | '.join(METHODS)} |"]
    lines.append("|---|---:|" + "---:|" * len(METHODS))
    for subset, number in num_patients.items():
        cells = [mean_sd([value[scope, m, subset, s] for s in seeds]) for m in METHODS]
        lines.append(f"| {' + '.join(subset)} | {number} | {' | '.join(cells)} |")
    means = [
        mean_sd([_mean([value[scope, m, subset, s] for subset in num_patients]) for s in seeds])
        for m in METHODS
    ]
    lines.append(f"| **mean over all rows** | | {' | '.join(means)} |")
    return "\n".join(lines)


def _sentences(
    value: Values, scope: str, subsets: Sequence[Subset], seeds: Sequence[int], sign: int
) -> list[str]:
    """How often ours is better than each of the others, over subsets and seeds."""
    lines = []
    for method in METHODS:
        if method == OURS:
            continue
        pairs = [
            (value[scope, OURS, subset, seed], value[scope, method, subset, seed])
            for subset in subsets
            for seed in seeds
        ]
        known = [(ours, other) for ours, other in pairs if ours is not None and other is not None]
        num_better = sum(sign * ours > sign * other for ours, other in known)
        lines.append(f"Better than {method} in {num_better} of {len(known)} cases (subset × seed).")
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
