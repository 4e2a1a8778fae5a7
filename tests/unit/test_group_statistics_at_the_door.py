"""Statistics of groups at the hospital's door and at the coordinator's: what passes either."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message

from client.agreement import what_leaves
from client.egress import Declared, release
from client.policy import Policy
from common import wire
from common.errors import Refusal, RefusalCode
from common.messages import Reply, Task, TaskKind
from common.metrics.evaluation import statistics_of, to_flat
from common.metrics.statistics import EvaluationSums
from common.metrics.subgroups import group_statistics_of, is_of_group
from common.study import Study
from common.study_file import with_patient_privacy
from server.correspondence import Unsigned
from server.inbox import Expected, open_reply
from tests.unit.builders import HASH, instruction, outcomes_of, predictions_of, study_of

BANDS = {"feature": "age_years", "edges": [45, 65]}
STUDY = study_of(evaluation={"subgroups": ["sex", BANDS]})
PLAIN = study_of()
POLICY = Policy(allow_without_privacy=True, smallest_group=10)
DECLARED = Declared.of(STUDY, update=(), moments=())
Metrics = dict[str, tuple[float, ...]]


def sums_of(
    num_patients: int, start: int = 0, *, of_group: bool = False
) -> dict[str, EvaluationSums]:
    """Of so many of the same patients, one after the other from `start` on."""
    predictions, outcomes = predictions_of(STUDY, 100), outcomes_of(STUDY, 100)
    chosen = slice(start, start + num_patients)
    statistics = group_statistics_of(STUDY) if of_group else statistics_of(STUDY)
    labels = {key: value[chosen] for key, value in outcomes["event"].items()}
    return {"event": statistics["event"].sums_of(predictions["event"][chosen], labels)}


def metrics_of(whole: int, **groups: int) -> Metrics:
    """Statistics of all patients, and of groups by their key with _ for : (sex_0=20).

    Those of one feature share nobody, as long as there are 100 patients in all.
    """
    metrics, taken = to_flat(sums_of(whole)), dict[str, int]()
    for name, size in groups.items():
        feature, _, number = name.rpartition("_")
        start = taken.get(feature, 0)
        taken[feature] = start + size
        metrics |= to_flat(sums_of(size, start, of_group=True), model=f"{feature}:{number}")
    return metrics


def reply(metrics: Metrics, kind: TaskKind = TaskKind.EVALUATE) -> Reply:
    return Reply(kind=kind, run_id="r", round=2, nonce="n", site="north", metrics=metrics)


def left(metrics: Metrics, policy: Policy = POLICY) -> set[str]:
    """The keys of the groups that leave."""
    released = release(reply(metrics), policy, DECLARED).metrics
    assert all(released[name] == metrics[name] for name in released)
    return {name.partition(".")[0] for name in released if is_of_group(name)}


# The hospital's door.


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(("size", "leaves"), [(9, False), (10, True), (90, True), (91, False)])
def test_a_group_leaves_if_neither_it_nor_what_is_beyond_it_is_small(
    size: int, leaves: bool
) -> None:
    assert left(metrics_of(100, sex_0=size)) == ({"sex:0"} if leaves else set())


@pytest.mark.threat("S0-2")
def test_where_a_small_group_would_follow_the_smallest_of_the_others_stays() -> None:
    assert left(metrics_of(100, sex_0=40, sex_1=60)) == {"sex:0", "sex:1"}
    assert left(metrics_of(100, sex_0=40, sex_1=55)) == {"sex:1"}
    assert left(metrics_of(100, age_years_0=9, age_years_1=40, age_years_2=51)) == {"age_years:2"}
    # Each feature for itself.
    assert left(metrics_of(100, sex_0=40, sex_1=55, age_years_0=50)) == {"sex:1", "age_years:0"}


def test_no_group_leaves_of_an_outcome_that_does_not() -> None:
    metrics = metrics_of(100, sex_0=50)
    policy = Policy(allow_without_privacy=True, smallest_group=101)
    assert release(reply(metrics), policy, DECLARED).metrics == {}
    groups_alone = {name: value for name, value in metrics.items() if is_of_group(name)}
    assert release(reply(groups_alone), POLICY, DECLARED).metrics == {}


def test_the_list_of_the_policy_holds_for_groups_too() -> None:
    policy = Policy(allow_without_privacy=True, metrics=("num_patients", "event.confusion"))
    released = release(reply(metrics_of(100, sex_0=50)), policy, DECLARED).metrics
    assert set(released) == {
        "event.num_patients",
        "event.confusion",
        "sex:0.event.num_patients",
    }


@pytest.mark.threat("S0-2", "I-1")
@pytest.mark.parametrize(
    "metrics",
    [
        metrics_of(100) | {"sex:2.event.num_patients": (50.0,)},
        metrics_of(100) | {"smoker:0.event.num_patients": (50.0,)},
        metrics_of(100) | {"sex:0.event.mean_age": (50.0,)},
        metrics_of(100) | {"sex:0.event.num_patients": (50.0, 1.0)},
        metrics_of(100) | {"sex:0.num_patients": (50.0,)},
    ],
    ids=range(5),
)
def test_no_group_leaves_that_the_study_does_not_name(metrics: Metrics) -> None:
    with pytest.raises(Refusal) as caught:
        release(reply(metrics), POLICY, DECLARED)
    assert caught.value.refusal_code == RefusalCode.EGRESS_BLOCKED


@pytest.mark.threat("S0-2")
def test_no_group_leaves_with_a_training() -> None:
    out = reply(metrics_of(100, sex_0=50), TaskKind.TRAIN)
    declared = replace(DECLARED, manifests={})
    with pytest.raises(Refusal, match="groups of patients outside of an evaluation"):
        release(out, POLICY, declared)


@pytest.mark.threat("S0-2")
def test_nothing_of_groups_is_declared_where_patients_are_protected() -> None:
    private = with_patient_privacy(STUDY, epsilon=3, delta=1e-4)
    declared = Declared.of(private, update=(), moments=())
    assert declared.splits == ()
    out = reply({"sex:0.event.num_patients": (50.0,)})
    with pytest.raises(Refusal):
        release(out, POLICY, declared)


def test_who_accepts_a_study_is_told_of_its_groups() -> None:
    told = [text for text in what_leaves(STUDY, POLICY) if "groups of patients" in text]
    assert len(told) == 1
    assert "5 groups" in told[0]
    for words in ("female, male", "45 to < 65 years", "confusion 4", "fewer than 10"):
        assert words in told[0]
    assert not any("groups of patients" in text for text in what_leaves(PLAIN, POLICY))
    private = what_leaves(with_patient_privacy(STUDY, epsilon=3, delta=1e-4), POLICY)
    assert "of groups of patients that the study names: nothing, because of its privacy" in private


def test_who_accepts_a_study_is_told_what_the_policy_keeps_of_groups() -> None:
    policy = Policy(allow_without_privacy=True, metrics=("num_patients",))
    (told,) = [text for text in what_leaves(STUDY, policy) if "groups of patients" in text]
    assert ": num_patients 1; none of a group" in told


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


def test_honest_groups_pass() -> None:
    assert opened(metrics_of(100)) == ""
    assert opened(metrics_of(100, sex_0=40, sex_1=60, age_years_1=100)) == ""
    assert opened(metrics_of(100), kind=TaskKind.TRAIN) == ""


UNDECLARED = "rejected: statistics that are not declared"
DISAGREE = "rejected: statistics that disagree with one another"
BAD: dict[str, tuple[Metrics, str]] = {
    "an unknown group": (metrics_of(100) | {"sex:2.event.num_patients": (9.0,)}, UNDECLARED),
    "an unknown feature": (metrics_of(100) | {"ward:0.event.num_patients": (9.0,)}, UNDECLARED),
    "an unknown outcome": (metrics_of(100) | {"sex:0.death.num_patients": (9.0,)}, UNDECLARED),
    "a group in a group": (
        metrics_of(100) | {"sex:0.age_years:1.event.num_patients": (9.0,)},
        UNDECLARED,
    ),
    "groups of more than all": (metrics_of(60, sex_0=40, sex_1=60), DISAGREE),
    "one group of more than all": (metrics_of(60, sex_0=100), DISAGREE),
    "a group without all patients": (
        {n: v for n, v in metrics_of(100, sex_0=50).items() if is_of_group(n)},
        DISAGREE,
    ),
    "a group that is not of the same patients in itself": (
        metrics_of(100, sex_0=50) | {"sex:0.event.num_patients": (49.0,)},
        DISAGREE,
    ),
    "a negative count": (
        metrics_of(100, sex_0=50) | {"sex:0.event.num_patients": (-1.0,)},
        "rejected: statistics that are negative or not finite",
    ),
    "a value that is none": (
        metrics_of(100, sex_0=50) | {"sex:0.event.loss_sum": (float("nan"),)},
        "rejected: statistics that are negative or not finite",
    ),
}


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_hostile_groups_are_dropped_with_their_reason(bad: tuple[Metrics, str]) -> None:
    metrics, reason = bad
    assert opened(metrics) == reason


@pytest.mark.threat("S0-2", "C-1")
def test_groups_of_a_study_that_names_none_or_of_a_training_are_dropped() -> None:
    assert opened(metrics_of(100, sex_0=50), PLAIN) == UNDECLARED
    early = opened(metrics_of(100, sex_0=50), kind=TaskKind.TRAIN)
    assert early == "rejected: statistics of groups before the last round"


def test_a_group_counts_into_the_limit_of_patients() -> None:
    study = study_of(evaluation={"subgroups": ["sex"]}, strategy={"max_patients_per_site": 99})
    assert opened(metrics_of(90, sex_0=50), study) == ""
    assert np.isclose(metrics_of(90)["event.num_patients"], 90)
