"""The oracle: exact metrics from the pooled predictions of all sites, in simulation alone.

Real sites never send predictions. Targets are judged on these numbers; the mergeable statistics
stand beside them, so that their error is seen.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from client.evaluation import Outcomes, Predictions
from common.metrics.evaluation import PERSONAL, statistics_of
from common.metrics.statistics import Metrics
from common.study import Study

Evaluated = tuple[Predictions, Outcomes]


def exact_metrics(predictions: Predictions, outcomes: Outcomes, study: Study) -> dict[str, Metrics]:
    """The metrics of each outcome without binning; None if undefined."""
    return {
        name: statistics.exact_metrics(predictions[name], outcomes[name])
        for name, statistics in statistics_of(study).items()
    }


def pooled(parts: Sequence[Evaluated]) -> Evaluated:
    """The predictions and outcomes of several sites as one."""
    predictions = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    outcomes = {
        name: {key: np.concatenate([part[1][name][key] for part in parts]) for key in arrays}
        for name, arrays in parts[0][1].items()
    }
    return predictions, outcomes


def mean_of_sites(by_site: Sequence[Metrics]) -> Metrics:
    """The unweighted mean of each metric over the sites in which it is defined; None if in none."""
    mean: Metrics = {}
    for name in by_site[0]:
        known = [value for metrics in by_site if (value := metrics[name]) is not None]
        mean[name] = float(np.mean(known)) if known else None
    return mean


class Oracle:
    """Collects the predictions of simulated sites, round by round."""

    def __init__(self) -> None:
        self._rounds: dict[int, dict[str, Evaluated]] = {}
        self._latest: dict[str, dict[str, Evaluated]] = {"": {}, PERSONAL: {}}

    def observer(self, site: str) -> Callable[[int, str, Predictions, Outcomes], None]:
        """What `Site.simulated` calls with each evaluation of this site."""

        def observe(
            round_number: int, model: str, predictions: Predictions, outcomes: Outcomes
        ) -> None:
            if model == "":
                self._rounds.setdefault(round_number, {})[site] = (predictions, outcomes)
            self._latest[model][site] = (predictions, outcomes)

        return observe

    def latest(self, model: str = "") -> Mapping[str, Evaluated]:
        """The last evaluation of each site: after a run, the final one.

        Args:
            model: "" for the shared model, `PERSONAL` for the sites' own.
        """
        return self._latest[model]

    def pop(self, round_number: int, study: Study) -> dict[str, Metrics] | None:
        """The exact pooled metrics of a round, once; None if no site was evaluated in it."""
        evaluated = self._rounds.pop(round_number, None)
        if not evaluated:
            return None
        return exact_metrics(*pooled([evaluated[site] for site in sorted(evaluated)]), study)
