"""What the words of a report mean, of those that it uses: for readers who train no models."""

from collections.abc import Iterable, Iterator
from typing import Any

from common.page.document import Section, Table
from server.report.columns import columns_of, title_of
from server.report.html.facts import Facts
from server.report.privacy import is_private
from server.report.rounds import last_evaluated

_ALWAYS = {
    "held-out patients": (
        "Patients of the same hospitals whom training did not see. How well the model does is "
        "judged by them alone."
    ),
    "round": (
        "One exchange: the coordinator sends its model, every hospital trains it on its own "
        "patients, and the coordinator combines what they send back to the next model."
    ),
    "update": "What a hospital sends after training: how the numbers in the model should change.",
    "all, pooled": (
        "The held-out patients of all hospitals taken together: a hospital with more of them "
        "weighs more. Where some sent no figures, it says how many did."
    ),
    "± after a mean": (
        "Standard deviation: about two of three hospitals are no farther than this from the mean."
    ),
    "95 % interval": (
        "How far chance may have moved a number of so few patients: made in this way, 95 of 100 "
        "such intervals hold the true one."
    ),
    "seed": "The number from which everything that is drawn at random in training follows.",
}
_METRICS = {
    "auroc": (
        "Of one patient who has the outcome and one who has not: how often the model gives the "
        "higher risk to the right one. 0.5 is guessing, 1 is always right. With more than two "
        "classes: the mean over them, each against the rest."
    ),
    "auprc": (
        "Of the patients with the highest risks, which part has the outcome, as the mean over all "
        "places where one could stop. Guessing gives the part of patients who have the outcome, so "
        "that it cannot be compared where that differs."
    ),
    "accuracy": (
        "Part of patients whose most probable class is the right one. Where an outcome is rare, a "
        "model that never predicts it has a high one."
    ),
    "f1": (
        "One number for two: of those flagged, who has the outcome; and of those who have it, who "
        "is flagged. 1 is best; low if either is. With more than two classes: the mean over them."
    ),
    "calibration_error": (
        "How far predicted probabilities are from how often it happens, on average. 0 is best; of "
        "few patients it is above 0 by chance alone."
    ),
    "mae": "How far predictions are off, on average.",
    "rmse": "As MAE, but large errors weigh more.",
    "r2": (
        "Which part of the differences between patients is predicted. 1 is all of it, 0 is no "
        "better than to predict the mean for everybody; below 0 is worse than that."
    ),
    "c_index": (
        "Of two patients of whom it is known who had the event first: how often the model gives "
        "the higher risk to that one. 0.5 is guessing, 1 is always right."
    ),
    "num_events": "Held-out patients who had the event while they were followed.",
    "loss": (
        "What training makes small: how badly predictions fit. It serves to compare rounds; of "
        "different outcomes it cannot be compared."
    ),
}
_PRIVATE = {
    "epsilon": (
        "How much the presence of one patient may change what is released. 0 would be nothing; "
        "small is private. “Privacy” says what this one allows."
    ),
    "delta": "The chance that the promise of epsilon does not hold; it should be tiny.",
    "± after a number": (
        "In a private run: the standard deviation of what the noise for privacy does to it."
    ),
}


def glossary(results: dict[str, Any], facts: Facts) -> Section:
    """The words of this run's report: those of every run, its metrics, and those of privacy."""
    if last_evaluated(results) is None:
        return Section(key="words", title="What the words mean", blocks=[])
    private = _PRIVATE if results["privacy"]["mode"] != "none" else {}
    if not is_private(results):
        private = {word: text for word, text in private.items() if not word.startswith("±")}
    kinds = (outcome.kind for outcome in facts.study.outcomes.values())
    rows = [*_ALWAYS.items(), *metric_rows(kinds), *private.items()]
    return Section(key="words", title="What the words mean", blocks=[_table(rows)])


def metric_rows(kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each metric of these kinds of outcome, and what it means; each once.

    >>> [name for name, _ in metric_rows(["survival", "regression", "survival"])]
    ['C-index', 'events', 'loss', 'MAE', 'RMSE', 'R²']
    """
    for metric in dict.fromkeys(m for kind in kinds for m in (*columns_of(kind), "loss")):
        yield title_of(metric), _METRICS[metric]


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    return Table(
        caption="Words of this report",
        head=("word", "meaning"),
        rows=[list(row) for row in rows],
        is_words=True,
    )
