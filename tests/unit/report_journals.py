"""Journals of small runs, written by hand, for the tests of pages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from client.private_statistics import private_evaluation
from common.metrics.attributions import (
    ABSOLUTE,
    DIRECTED,
    PATIENTS,
    SIGNED,
    bound_of,
    columns_of,
    prefixes_of,
)
from common.metrics.evaluation import PERSONAL, to_flat
from common.metrics.subgroups import group_statistics_of, splits_of
from common.privacy.mechanisms import NoiseSource
from common.study import Study
from server.journal import Event
from server.report.html.facts import facts_of
from server.report.html.report import report_html
from server.report.results import results_of
from tests.unit.builders import (
    HASH,
    MORE_OUTCOMES,
    evaluation,
    outcomes_of,
    predictions_of,
    study_of,
)

PLAIN = study_of(study={"title": "Fever & falls"}, outcomes=MORE_OUTCOMES)
OWN = study_of(personal={"fine_tune_steps": 3})
PRIVATE = study_of(privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-4})
OF_SITES = study_of(privacy={"mode": "site", "epsilon": 3.0, "delta": 1e-3})
SUBGROUPS = ["sex", {"feature": "age_years", "edges": [45, 65]}]
# Everything that a study may ask for once.
GROUPED = study_of(
    outcomes=MORE_OUTCOMES, evaluation={"subgroups": SUBGROUPS, "attributions": True}
)
SITES = ("north", "south", "west")


def page_of(journal: list[Event]) -> str:
    """The page of a journal."""
    return report_html(results_of(journal), facts_of(journal))


def event_of(event: str, **fields: Any) -> Event:
    """An event of the journal."""
    return {"at": "2026-03-01T12:00:00.000+00:00", "event": event, **fields}


def start_of(study: Study, num_rounds: int = 2) -> Event:
    """The beginning of a run of two rounds."""
    return event_of(
        "run_started",
        run_id="abc",
        study=study.model_dump(mode="json"),
        study_hash=HASH,
        seed=7,
        num_rounds=num_rounds,
        round=0,
        engine="in-process",
        release="0.1.0",
        code="c0de",
    )


def reply_of(kind: str, number: int, site: str, metrics: Mapping[str, Any], **more: Any) -> Event:
    """A reply of a site."""
    counts = {"patients": 90, "labs": 90, "vitals": 0, "event": 80}
    return event_of(
        "reply",
        round=number,
        kind=kind,
        site=site,
        counts=counts,
        metrics={name: list(values) for name, values in metrics.items()},
        bytes_up=100,
        **more,
    )


def enrolled(site: str) -> list[Event]:
    """The enrolment of a site without vital signs."""
    reply = reply_of("query", 0, site, {})
    return [reply, event_of("enrolled", site=site, counts=reply["counts"])]


def round_of(number: int) -> list[Event]:
    """The end of a round, and the model that comes out of it."""
    return [
        event_of("aggregated", round=number, sites=list(SITES), update_norm=1.0, seconds=0.1),
        event_of("round_finished", round=number, seconds=1.5 * number),
    ]


def plain_journal(study: Study = PLAIN, *, num_rounds: int = 2) -> list[Event]:
    """Three hospitals, of which south is late once and west refuses; all evaluate every round."""
    journal = [start_of(study, num_rounds)]
    for site in SITES:
        journal += enrolled(site)
    for number in range(num_rounds + 1):
        kind = "train" if number < num_rounds else "evaluate"
        journal.append(event_of("asked", kind=kind, round=number, nonces={}, bytes_down=4000))
        for seed, site in enumerate(SITES):
            sums = to_flat(evaluation(200, study, seed=seed + 10 * number))
            if study.personal.has_model and kind == "evaluate":
                sums |= to_flat(evaluation(200, study, seed=seed + 99), model=PERSONAL)
            if kind == "evaluate":
                sums |= groups_of(study, 200, seed=seed + 10 * number)
                sums |= attributions_of(study, 200, seed=seed)
            sums |= {"seconds_training": (1.0,), "seconds_evaluation": (0.25,)}
            journal.append(reply_of(kind, number, site, sums))
        if number < num_rounds:
            journal += round_of(number + 1)
    journal.append(event_of("absent", round=0, site="south", reason="late"))
    journal.append(event_of("absent", round=1, site="west", reason="study_not_accepted"))
    return [*journal, event_of("run_finished", round=num_rounds)]


def groups_of(study: Study, num_patients: int, seed: int) -> dict[str, tuple[float, ...]]:
    """Statistics of groups of the patients of `evaluation`: equal parts of them, in their order."""
    predictions = predictions_of(study, num_patients, seed)
    outcomes = outcomes_of(study, num_patients, seed + 1)
    flat: dict[str, tuple[float, ...]] = {}
    for groups in splits_of(study).values():
        for number, group in enumerate(groups):
            part = np.arange(num_patients) * len(groups) // num_patients == number
            sums = {
                name: statistics.sums_of(
                    predictions[name][part], {k: v[part] for k, v in outcomes[name].items()}
                )
                for name, statistics in group_statistics_of(study).items()
            }
            flat |= to_flat(sums, model=group.key)
    return flat


def attributions_of(study: Study, num_patients: int, seed: int) -> dict[str, tuple[float, ...]]:
    """What predictions rest on: the later a column, the less; nothing is told of the first."""
    flat: dict[str, tuple[float, ...]] = {}
    columns = columns_of(study)
    for outcome, prefix in prefixes_of(study).items():
        part_F = np.array([0.0, *(1 / (n + 2 + seed) for n in range(len(columns) - 1))])
        size_F = part_F * num_patients * bound_of(study.outcomes[outcome]) / 10
        direction_F = np.array([0.9 if c.has_direction else 0.0 for c in columns])
        told = {
            PATIENTS: np.where(part_F > 0, float(num_patients), 0.0),
            ABSOLUTE: size_F,
            SIGNED: -size_F / 2,
            DIRECTED: size_F * direction_F,
        }
        flat |= {prefix + name: tuple(value.tolist()) for name, value in told.items()}
    return flat


def private_journal(study: Study = PRIVATE) -> list[Event]:
    """The same hospitals under privacy: noised statistics and receipts after the last round."""
    journal = [start_of(study)]
    for site in SITES:
        journal += enrolled(site)
    for number in (0, 1):
        journal += [reply_of("train", number, site, {}) for site in SITES]
        journal += round_of(number + 1)
    for seed, site in enumerate(SITES):
        noised = private_evaluation(
            predictions_of(study, 400, seed),
            outcomes_of(study, 400, seed),
            study,
            2.0,
            NoiseSource.seeded(seed),
        )
        receipt = {"epsilon": 2.5 + seed / 10, "delta": 1e-4, "seq": 3, "digest": "ab"}
        journal.append(reply_of("evaluate", 2, site, noised, receipt=receipt))
    return [*journal, event_of("run_finished", round=2)]


def site_private_journal() -> list[Event]:
    """A run in which each hospital's participation is hidden, and no patient is protected."""
    spent = event_of(
        "site_privacy", round=2, epsilon=1.2341, delta=1e-3, noise_multiplier=4.0, clipped=[]
    )
    return [*plain_journal(OF_SITES), spent]


def with_one_text_replaced(value: Any, text: str) -> list[Any]:
    """Copies of a value, in each of which one text, or one key of a dict, is `text`."""
    if isinstance(value, str):
        return [text]
    if isinstance(value, dict):
        copies = [
            {**value, key: new}
            for key, v in value.items()
            for new in with_one_text_replaced(v, text)
        ]
        renamed = [{text if key == name else key: v for key, v in value.items()} for name in value]
        return copies + renamed
    if isinstance(value, list):
        return [
            [*value[:n], new, *value[n + 1 :]]
            for n, v in enumerate(value)
            for new in with_one_text_replaced(v, text)
        ]
    return []
