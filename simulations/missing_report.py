"""The missing-granularity experiment as files: one tidy CSV, and tables in Markdown."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import write_atomically
from common.metrics.evaluation import statistics_of
from common.study import Study
from server.report.markdown import title_of
from simulations.missing import METHODS, OURS, MissingResult, Subset


def write_missing(results: Sequence[MissingResult], out: Path, *, study: Study) -> Path:
    """Writes `missing.csv` and `missing.md`; returns the path of the latter."""
    text = to_markdown(results, study=study)
    write_atomically(out / "missing.csv", to_csv(results).encode(), durable=False)
    write_atomically(out / "missing.md", text.encode(), durable=False)
    return out / "missing.md"


def to_csv(results: Sequence[MissingResult]) -> str:
    """One line per method, seed, subset and metric; an undefined metric is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "subset", "metric", "value"])
    for r in results:
        for metric, value in r.metrics.items():
            cell = "" if value is None else repr(float(value))
            writer.writerow([r.method, r.seed, "+".join(r.subset), metric, cell])
    return text.getvalue()


def to_markdown(results: Sequence[MissingResult], *, study: Study) -> str:
    """A table of all subsets by method, mean ± sd over seeds, and how often ours is best."""
    outcome, statistics = next(iter(statistics_of(study).items()))
    metric = statistics.columns[0]
    sign = -1 if study.outcomes[outcome].kind == "regression" else 1
    seeds = sorted({r.seed for r in results})
    subsets = list(dict.fromkeys(r.subset for r in results))
    value = {(r.method, r.subset, r.seed): r.metrics[metric] for r in results}
    num_patients = {r.subset: r.metrics["num_patients"] or 0 for r in results}
    direction = "smaller" if sign < 0 else "larger"
    lines = [
        f"# {study.study.title or study.name}: predicting from some granularities",
        "",
        f"{title_of(metric)} of {outcome} ({direction} is better) on the held-out patients who "
        f"have all granularities of a row, shown nothing else; mean ± sd over {len(seeds)} seeds.",
        "",
        f"| granularities | patients | {' | '.join(METHODS)} |",
        "|---|---:|" + "---:|" * len(METHODS),
    ]
    for subset in subsets:
        cells = [_mean_sd([value[m, subset, s] for s in seeds]) for m in METHODS]
        lines.append(f"| {' + '.join(subset)} | {num_patients[subset]:.0f} | {' | '.join(cells)} |")
    means = {
        m: [_mean([value[m, subset, s] for subset in subsets]) for s in seeds] for m in METHODS
    }
    cells = [_mean_sd(means[method]) for method in METHODS]
    lines.append(f"| **mean over all rows** | | {' | '.join(cells)} |")
    lines += ["", *_sentences(value, subsets, seeds, sign)]
    return "\n".join(lines) + "\n"


def _sentences(
    value: dict[tuple[str, Subset, int], float | None],
    subsets: Sequence[Subset],
    seeds: Sequence[int],
    sign: int,
) -> list[str]:
    """How often ours is better than each of the others, over subsets and seeds."""
    lines = []
    for method in METHODS:
        if method == OURS:
            continue
        pairs = [
            (value[OURS, subset, seed], value[method, subset, seed])
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


def _mean_sd(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return f"{np.mean(known):.3f} ± {sd:.3f}"
