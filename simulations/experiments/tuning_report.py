"""A search as files: a table of all trials, which parameters mattered, and what was best."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import RunError
from common.page.words import several
from common.study import Study
from server.report.columns import title_of
from simulations.arms_report import mean_sd
from simulations.experiments.changes import value_at
from simulations.experiments.runs import is_better_higher
from simulations.experiments.validation import Inner, Validated, best_of

_MOST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial.

    Attributes:
        number: from 1; None: the study as it stands.
        values: by dotted key of the study.
    """

    number: int | None
    values: Mapping[str, Any]
    study: Study
    validated: Validated


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A finished search.

    Attributes:
        tried: the study as it stands first, then all trials in order.
        importances: of each parameter, the most important one first; empty if not known.
    """

    study: Study
    metric: str
    inner: Inner
    tried: Sequence[Tried]
    importances: Mapping[str, float]

    @property
    def best(self) -> Tried:
        """The best trial; the study as it stands where none is better.

        Raises:
            RunError: every training failed.
        """
        places: dict[int, Validated] = {n: t.validated for n, t in enumerate(self.tried)}
        if all(v.mean is None for v in places.values()):
            raise RunError(
                f"Expected a trial that came to its end, found {len(places)} that failed. See the "
                "runs' journals, and start from a study that trains."
            )
        place: int = best_of(places, is_higher=is_better_higher(self.metric))
        return self.tried[place]


def to_csv(tuned: Tuned) -> str:
    """A line for each trial and training: its values, fold, seed, and the metric or the failure."""
    keys = [key for trial in tuned.tried[1:2] for key in trial.values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *keys, "fold", "seed", "metric", "value", "failed"])
    for trial in tuned.tried:
        values = [_cell(trial.values.get(key, value_at(tuned.study, key))) for key in keys]
        failed = " ".join(sorted(set(trial.validated.failed)))
        pairs = tuned.inner.pairs if len(trial.validated.values) > 1 else [("", "")]
        for (fold, seed), value in zip(pairs, trial.validated.values, strict=True):
            told = "" if value is None else repr(float(value))
            number = trial.number or 0
            writer.writerow(
                [number, *values, fold, seed, tuned.metric, told, "" if told else failed]
            )
    return text.getvalue()


def to_markdown(tuned: Tuned) -> str:
    """The best study against the one as it stands, the best trials, and what mattered."""
    title, best, own = title_of(tuned.metric), tuned.best, tuned.tried[0]
    seeds = several(tuned.inner.num_seeds, "seed")
    num_trainings = sum(len(trial.validated.values) for trial in tuned.tried)
    parts = [
        f"# {tuned.study.study.title or tuned.study.name}: search for settings",
        f"{title} of the first outcome on inner validation ({tuned.inner.num_folds} folds of the "
        f"training patients, {seeds} each); held-out patients took no part. "
        f"{len(tuned.tried) - 1} trials beside the study as it stands, {num_trainings} trainings.",
        f"Best: {mean_sd(list(best.validated.values))}"
        + (" (the study as it stands)" if best.number is None else f" (trial {best.number})")
        + f"; the study as it stands: {mean_sd(list(own.validated.values))}. The best of many is "
        "flattered by chance: judge `best.toml` once on the held-out patients, with `wardround "
        "arms` or `wardround simulate`.",
        _changes(tuned),
        _table(tuned),
        _importance(tuned),
    ]
    if own.validated.epsilon is not None:
        parts.append(
            f"Every training is private (epsilon {own.validated.epsilon:.4g}); on real patients "
            f"all {num_trainings} would have to be paid for."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _changes(tuned: Tuned) -> str:
    """What `best.toml` changes in the study."""
    rows = [
        (key, _cell(value_at(tuned.study, key)), _cell(value))
        for key, value in tuned.best.values.items()
        if value != value_at(tuned.study, key)
    ]
    lines = [f"| `{key}` | {before} | {after} |" for key, before, after in rows]
    head = ["## What the best study changes", "", "| key | was | is |", "|---|---|---|"]
    return "\n".join([*head, *lines]) if rows else ""


def _table(tuned: Tuned) -> str:
    sign = -1 if is_better_higher(tuned.metric) else 1
    done = [t for t in tuned.tried if t.validated.mean is not None]
    ranked = sorted(done, key=lambda t: sign * (t.validated.mean or 0.0))
    lines = [
        f"| {t.number or 'as it stands'} | {mean_sd(list(t.validated.values))} |"
        for t in ranked[:_MOST_ROWS]
    ]
    num_failed = len(tuned.tried) - len(done)
    told = f"\n\n{num_failed} failed; all are in `trials.csv`." if num_failed else ""
    head = ["## Best trials", "", f"| trial | {title_of(tuned.metric)} |", "|---|---:|"]
    return "\n".join([*head, *lines]) + told


def _importance(tuned: Tuned) -> str:
    if not tuned.importances:
        return ""
    lines = [f"| `{key}` | {value:.2f} |" for key, value in tuned.importances.items()]
    head = [
        "## What mattered",
        "",
        "The part of the spread of results that each parameter explains by itself (fANOVA).",
        "",
        "| key | part |",
        "|---|---:|",
    ]
    return "\n".join([*head, *lines])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
