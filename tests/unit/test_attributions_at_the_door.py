"""Attributions at the hospital's door and at the coordinator's: what passes either."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.agreement import what_leaves
from client.check import _policy_findings
from client.egress import Declared, release, withheld
from client.policy import Policy
from common import wire
from common.errors import Refusal, RefusalCode, StudyError
from common.messages import Reply, Task, TaskKind
from common.metrics.attributions import (
    ABSOLUTE,
    DIRECTED,
    KEY,
    MOST_FEATURES,
    PATIENTS,
    SIGNED,
    STATISTICS,
    attribution_sizes,
    attributions_from_flat,
    attributions_to_flat,
    columns_of,
    is_attribution,
)
from common.metrics.evaluation import declared_sizes, from_flat, to_flat
from common.study import Study
from common.study_file import load_study, study_from_toml, study_to_toml, with_patient_privacy
from server.correspondence import Unsigned
from server.inbox import Expected, open_reply
from simulations.sent_fields import fields_of
from tests.unit.builders import HASH, MORE_OUTCOMES, evaluation, instruction, study_of
from tests.unit.explain_cases import config_of

ASKED = {"attributions": True}
STUDY = study_of(evaluation=ASKED)
PLAIN = study_of()
POLICY = Policy(allow_without_privacy=True, smallest_group=10)
DECLARED = Declared.of(STUDY, update=(), moments=())
NUM_COLUMNS = len(columns_of(STUDY))
Metrics = dict[str, tuple[float, ...]]


def name_of(statistic: str) -> str:
    return f"{KEY}.event.{statistic}"


def metrics_of(num_patients: int = 100, **changed: Any) -> Metrics:
    """An evaluation of so many patients, and attributions of all of them.

    Args:
        changed: statistics of attributions, by name: a number for the first column, or all.
    """
    told: dict[str, Any] = {
        PATIENTS: float(num_patients),
        ABSOLUTE: 50.0,
        SIGNED: -20.0,
        DIRECTED: 10.0,
    }
    metrics = to_flat(evaluation(num_patients, STUDY))
    for name, value in told.items():
        first = changed.get(name, value)
        values = first if isinstance(first, tuple) else (first, *[value] * (NUM_COLUMNS - 1))
        metrics[name_of(name)] = values
    return metrics


def reply(metrics: Metrics, kind: TaskKind = TaskKind.EVALUATE) -> Reply:
    return Reply(kind=kind, run_id="r", round=2, nonce="n", site="north", metrics=metrics)


# The study.


def test_a_study_that_asks_for_none_is_what_it_was_before_there_were_any() -> None:
    assert "attributions" not in PLAIN.model_dump(mode="json")["evaluation"]
    assert study_of(evaluation={"attributions": False}).hash == PLAIN.hash
    assert not any(map(is_attribution, declared_sizes(PLAIN)))
    assert "attributions" not in load_study("demo").model_dump(mode="json")["evaluation"]


def test_asking_changes_the_hash_and_survives_a_file() -> None:
    assert STUDY.hash != PLAIN.hash
    assert study_from_toml(study_to_toml(STUDY)) == STUDY


@pytest.mark.parametrize("value", ['"yes"', "1"])
def test_only_true_and_false_are_answers(value: str) -> None:
    text = study_to_toml(PLAIN).replace("[evaluation]\n", f"[evaluation]\nattributions = {value}\n")
    with pytest.raises(StudyError, match="attributions"):
        study_from_toml(text)


def test_no_outcome_is_called_as_they_are() -> None:
    outcomes = {"attributions": {**MORE_OUTCOMES["stay"]}}
    assert study_of(outcomes=outcomes).outcomes
    with pytest.raises(ValueError, match="no outcome named 'attributions'"):
        study_of(outcomes=outcomes, evaluation=ASKED)


def test_there_is_a_column_for_each_granularity_and_feature_unless_they_are_many() -> None:
    markers = {"kind": "markers", "unit": "expression", "range": [0, 10]}
    study = study_of(
        granularities={
            "few": {**markers, "markers": [f"f{i}" for i in range(MOST_FEATURES)]},
            "many": {**markers, "markers": [f"m{i}" for i in range(MOST_FEATURES + 1)]},
            "imaging": {"kind": "images", "size": [8, 8], "channels": [2]},
        },
        evaluation=ASKED,
    )
    found = [(c.granularity, c.feature) for c in columns_of(study)]
    assert len([g for g, feature in found if g == "few" and feature]) == MOST_FEATURES
    assert [c for c in found if c[0] == "many"] == [("many", None)]
    assert [c for c in found if c[0] == "imaging"] == [("imaging", None)]
    assert set(attribution_sizes(study).values()) == {len(found)}
    of_numbers = {c.feature for c in columns_of(STUDY) if c.has_direction}
    assert {"age_years", "glucose"} <= of_numbers
    assert not {"sex", "smoker", None} & of_numbers


# The hospital's door.


def test_honest_attributions_leave_as_they_are() -> None:
    metrics = metrics_of()
    assert release(reply(metrics), POLICY, DECLARED).metrics == metrics


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(
    ("patients", "leaves"), [(9, False), (10, True), (90, True), (91, False), (100, True)]
)
def test_a_column_of_few_or_of_all_but_few_leaves_as_zeros(patients: int, leaves: bool) -> None:
    metrics = metrics_of(**{PATIENTS: float(patients)})
    out = reply(metrics)
    released = release(out, POLICY, DECLARED)
    for name in STATISTICS:
        first, *others = released.metrics[name_of(name)]
        assert first == (metrics[name_of(name)][0] if leaves else 0.0)
        assert others == list(metrics[name_of(name)][1:])
    assert (withheld(out, released) == []) is leaves


def test_none_leave_of_an_outcome_that_does_not_nor_without_numbers_of_patients() -> None:
    strict = Policy(allow_without_privacy=True, smallest_group=101)
    assert release(reply(metrics_of()), strict, DECLARED).metrics == {}
    alone = {name: v for name, v in metrics_of().items() if is_attribution(name)}
    assert release(reply(alone), POLICY, DECLARED).metrics == {}
    listed = Policy(allow_without_privacy=True, metrics=("num_patients", ABSOLUTE))
    left = release(reply(metrics_of()), listed, DECLARED).metrics
    assert set(left) == {"event.num_patients"}


def test_the_list_of_the_policy_holds_for_attributions() -> None:
    listed = Policy(allow_without_privacy=True, metrics=("num_patients", PATIENTS, ABSOLUTE))
    left = release(reply(metrics_of()), listed, DECLARED).metrics
    assert set(left) == {"event.num_patients", name_of(PATIENTS), name_of(ABSOLUTE)}
    without = Policy(allow_without_privacy=True, metrics=("num_patients", "confusion"))
    left = release(reply(metrics_of()), without, DECLARED).metrics
    assert not any(map(is_attribution, left))


# What neither side lets through: metrics, and why the coordinator drops them.
UNDECLARED = "statistics that are not declared"
DISAGREE = "statistics that disagree with one another"
INFINITE = "statistics that are negative or not finite"
BAD: dict[str, tuple[Metrics, str]] = {
    "of an unknown outcome": (
        metrics_of() | {"attributions.death.attribution_sum": (0.0,) * NUM_COLUMNS},
        UNDECLARED,
    ),
    "of another name": (metrics_of() | {name_of("squares"): (0.0,) * NUM_COLUMNS}, UNDECLARED),
    "of a patient more": (metrics_of(**{ABSOLUTE: (1.0,) * (NUM_COLUMNS + 1)}), UNDECLARED),
    "of a column less": (metrics_of(**{ABSOLUTE: (1.0,) * (NUM_COLUMNS - 1)}), UNDECLARED),
    "not a number": (metrics_of(**{SIGNED: float("nan")}), INFINITE),
    "infinite": (metrics_of(**{ABSOLUTE: float("inf")}), INFINITE),
    "of half a patient": (metrics_of(**{PATIENTS: 49.5}), DISAGREE),
    "of less than nobody": (metrics_of(**{PATIENTS: -10.0}), DISAGREE),
    "beyond the bound of each patient": (metrics_of(**{ABSOLUTE: 800.1}), DISAGREE),
    "of nobody, and not 0": (metrics_of(**{PATIENTS: 0.0}), DISAGREE),
    "of a negative size": (metrics_of(**{ABSOLUTE: -1.0}), DISAGREE),
    "more than their size": (metrics_of(**{SIGNED: -50.1}), DISAGREE),
    "more in one direction than their size": (metrics_of(**{DIRECTED: 50.1}), DISAGREE),
    "without numbers of patients": (
        {n: v for n, v in metrics_of().items() if n != name_of(PATIENTS)},
        DISAGREE,
    ),
}


@pytest.mark.threat("S0-2", "I-1")
@pytest.mark.parametrize("metrics", [bad for bad, _ in BAD.values()], ids=BAD.keys())
def test_no_attributions_leave_that_no_patients_can_have(metrics: Metrics) -> None:
    with pytest.raises(Refusal) as caught:
        release(reply(metrics), POLICY, DECLARED)
    assert caught.value.refusal_code == RefusalCode.EGRESS_BLOCKED


@pytest.mark.threat("S0-2")
def test_none_leave_with_a_training() -> None:
    declared = replace(DECLARED, manifests={})
    with pytest.raises(Refusal, match="attributions outside of an evaluation"):
        release(reply(metrics_of(), TaskKind.TRAIN), POLICY, declared)


@pytest.mark.threat("S0-2")
def test_nothing_of_them_is_declared_where_patients_are_protected() -> None:
    private = with_patient_privacy(STUDY, epsilon=3, delta=1e-4)
    declared = Declared.of(private, update=(), moments=())
    assert declared.attributions == ()
    assert not any(map(is_attribution, declared.metrics))
    alone = {name: v for name, v in metrics_of().items() if is_attribution(name)}
    with pytest.raises(Refusal):
        release(reply(alone), POLICY, declared)
    assert opened(alone, private) == f"rejected: {UNDECLARED}"


def test_who_accepts_a_study_is_told_of_them() -> None:
    def told(study: Study, policy: Policy = POLICY) -> list[str]:
        return [text for text in what_leaves(study, policy) if "rest on" in text]

    (text,) = told(STUDY)
    for words in (f"{NUM_COLUMNS} granularities and features", f"{ABSOLUTE} {NUM_COLUMNS}", "10"):
        assert words in text
    assert told(PLAIN) == []
    (private,) = told(with_patient_privacy(STUDY, epsilon=3, delta=1e-4))
    assert private == "of what predictions rest on: nothing, because of the study's privacy"
    (kept,) = told(STUDY, Policy(allow_without_privacy=True, metrics=("num_patients", ABSOLUTE)))
    assert "features: nothing;" in kept


def test_a_check_knows_their_names_in_a_policy() -> None:
    listed = POLICY.model_copy(update={"metrics": ("num_patients", PATIENTS, "typo")})
    config = replace(config_of(), policy=listed)
    (finding,) = [f for f in _policy_findings(config, STUDY) if "typo" in f.found]
    assert finding.found == "typo"


def test_a_check_warns_of_a_policy_under_which_none_would_leave() -> None:
    listed = POLICY.model_copy(update={"metrics": ("num_patients", ABSOLUTE)})
    (finding,) = _policy_findings(replace(config_of(), policy=listed), STUDY)
    assert finding.expected == "attributed_patients among the statistics"
    assert finding.found == "none of attributions.event"


def test_what_was_sent_is_told_in_words() -> None:
    (field,) = [f for f in fields_of([reply(metrics_of())], STUDY) if f.name == name_of(SIGNED)]
    assert field.what == "attribution_sum of each granularity and feature, over held-out patients"


# The coordinator's.


def opened(metrics: Metrics, study: Study = STUDY, kind: TaskKind = TaskKind.EVALUATE) -> str:
    """Why the coordinator drops the reply; "" where it does not."""
    expected = Expected(
        task=Task(kind=kind, run_id="r", round=2, nonce="n", study_hash=HASH, code="c"),
        study=study,
        site="north",
        manifest=None,
        dtype="float32",
        counts={"patients": 100, **dict.fromkeys(study.granularities, 100), "event": 100},
    )
    sent = reply(metrics, kind)
    if kind is TaskKind.TRAIN:
        sent = replace(sent, counts=expected.counts or {})
    message = Message(wire.reply_to_records(sent), reply_to=instruction(1, kind.value))
    return open_reply(message, expected, Unsigned())[1]


def test_honest_attributions_pass() -> None:
    assert opened(metrics_of()) == ""
    some = {n: v for n, v in metrics_of().items() if n not in (name_of(SIGNED), name_of(DIRECTED))}
    assert opened(some) == ""
    # What a hospital with other rules sends: this coordinator has no smallest group.
    assert opened(metrics_of(**{PATIENTS: 7.0})) == ""


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_hostile_attributions_are_dropped_with_their_reason(bad: tuple[Metrics, str]) -> None:
    metrics, reason = bad
    assert opened(metrics) == f"rejected: {reason}"


@pytest.mark.threat("C-2")
def test_attributions_of_more_patients_than_were_evaluated_are_dropped() -> None:
    assert opened(metrics_of(**{PATIENTS: 101.0})) == f"rejected: {DISAGREE}"
    alone = {name: v for name, v in metrics_of().items() if is_attribution(name)}
    assert opened(alone) == f"rejected: {DISAGREE}"


@pytest.mark.threat("S0-2", "C-1")
def test_attributions_of_a_study_that_asks_for_none_or_of_a_training_are_dropped() -> None:
    assert opened(metrics_of(), PLAIN) == f"rejected: {UNDECLARED}"
    early = opened(metrics_of(), kind=TaskKind.TRAIN)
    assert early == "rejected: attributions before the last round"


def test_what_is_read_is_what_was_sent() -> None:
    metrics = metrics_of()
    found = attributions_from_flat(STUDY, metrics, from_flat(STUDY, metrics))
    assert attributions_to_flat(found) == {n: v for n, v in metrics.items() if is_attribution(n)}
    merged = found["event"] + found["event"]
    assert merged.sums[PATIENTS].tolist() == [200.0] * NUM_COLUMNS
    assert np.allclose(merged.sums[SIGNED], -40.0)
