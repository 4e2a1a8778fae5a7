"""Who the numbers of a page are of: patients and events by hospital."""

from collections.abc import Sequence

import numpy as np

from common.outcomes import AnyOutcome, ClassOutcome, SurvivalOutcome
from common.study import Study
from simulations.results.held_out import HeldOut


def people_table(repeats: Sequence[HeldOut], study: Study) -> str:
    """Training and held-out patients of each hospital, and the outcomes of the latter.

    The held-out patients are those of all folds together; training patients are the mean over
    folds.
    """
    held = repeats[0]
    titles = ["training", "held out"]
    titles += [t for n, outcome in study.outcomes.items() for t in _titles(n, outcome)]
    titles += [f"has {name}" for name in study.granularities]
    lines = ["## Patients", "", f"| hospital | {' | '.join(titles)} |"]
    lines.append("|---|" + "---:|" * len(titles))
    for site in held.sites():
        here = held.take(held.site_B == site)
        lines.append(f"| {site} | {_cells(here, held.num_train[site], study)} |")
    lines.append(f"| **all** | {_cells(held, sum(held.num_train.values()), study)} |")
    return "\n".join(lines)


def _titles(name: str, outcome: AnyOutcome) -> list[str]:
    if isinstance(outcome, ClassOutcome):
        shown = outcome.classes[1:] if outcome.kind == "binary" else outcome.classes
        return [f"{name}: {c}" for c in shown]
    if isinstance(outcome, SurvivalOutcome):
        return [f"{name}: events"]
    return [f"{name} known"]


def _cells(held: HeldOut, num_train: int, study: Study) -> str:
    numbers = [num_train, len(held)]
    for name, outcome in study.outcomes.items():
        arrays = held.outcomes[name]
        known_B = arrays["known_B"]
        if isinstance(outcome, ClassOutcome):
            counts = np.bincount(arrays["label_B"][known_B], minlength=len(outcome.classes))
            numbers += [int(n) for n in counts[1 if outcome.kind == "binary" else 0 :]]
        elif isinstance(outcome, SurvivalOutcome):
            numbers.append(int(arrays["event_B"][known_B].sum()))
        else:
            numbers.append(int(known_B.sum()))
    numbers += [int(held.present[name].sum()) for name in study.granularities]
    return " | ".join(map(str, numbers))
