"""The policy: each floor with its code, and the law that a stricter policy never allows more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.check import check_site
from client.policy import Policy
from common.errors import Refusal, RefusalCode
from common.study import Study
from common.study_file import override


def code_of(policy: Policy, study: Study, *, num_patients: int = 45, round_number: int = 0) -> str:
    """The code with which a task is refused, "ok" if it is not."""
    try:
        policy.check_round(round_number)
        policy.check_study(study, num_patients)
    except Refusal as refusal:
        return refusal.refusal_code.value
    return "ok"


@pytest.mark.threat("S1-1")
def test_a_policy_without_a_decision_about_privacy_is_no_policy() -> None:
    with pytest.raises(ValidationError, match="allow_without_privacy"):
        Policy.model_validate({})


@pytest.mark.parametrize("decision", ["yes", 1, "true", None])
def test_only_true_or_false_is_a_decision_about_privacy(decision: object) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"allow_without_privacy": decision})


@pytest.mark.threat("S1-1")
def test_the_mode_none_is_refused_where_privacy_is_required(tiny_study: Study) -> None:
    policy = Policy(allow_without_privacy=False, min_patients=1)
    assert code_of(policy, tiny_study) == RefusalCode.PRIVACY_REQUIRED


@pytest.mark.parametrize(("num_patients", "code"), [(44, "too_few_patients"), (45, "ok")])
def test_the_smallest_site_that_takes_part_has_min_patients(
    tiny_study: Study, num_patients: int, code: str
) -> None:
    policy = Policy(allow_without_privacy=True, min_patients=45)
    assert code_of(policy, tiny_study, num_patients=num_patients) == code


@pytest.mark.threat("S1-5")
@pytest.mark.parametrize(("round_number", "code"), [(7, "ok"), (8, "round_limit")])
def test_max_rounds_is_the_last_round_that_is_answered(
    tiny_study: Study, round_number: int, code: str
) -> None:
    policy = Policy(allow_without_privacy=True, min_patients=1, max_rounds=7)
    assert code_of(policy, tiny_study, round_number=round_number) == code


# 45 patients in batches of 16 are 3 steps an epoch.
@pytest.mark.threat("S1-1")
@pytest.mark.parametrize(("epochs", "code"), [(3, "ok"), (4, "step_limit")])
def test_more_local_steps_than_allowed_are_refused(
    tiny_study: Study, epochs: int, code: str
) -> None:
    policy = Policy(allow_without_privacy=True, min_patients=1, max_local_steps=9)
    study = override(tiny_study, training__local_epochs=epochs)
    assert code_of(policy, study) == code


@pytest.mark.parametrize(
    ("allowed", "leaves"), [(("*",), True), (("loss_sum",), True), (("confusion",), False), ((), 0)]
)
def test_a_metric_leaves_only_if_it_is_on_the_list(allowed: tuple[str, ...], leaves: bool) -> None:
    policy = Policy(allow_without_privacy=True, metrics=allowed)
    assert policy.allows_metric("loss_sum") is bool(leaves)


@pytest.mark.parametrize(
    ("allowed", "leaving"),
    [
        ("*", {"event.loss_sum", "death.loss_sum", "personal.event.loss_sum", "seconds_training"}),
        ("loss_sum", {"event.loss_sum", "death.loss_sum", "personal.event.loss_sum"}),
        ("event.loss_sum", {"event.loss_sum"}),
        ("personal.event.loss_sum", {"personal.event.loss_sum"}),
        ("seconds_training", {"seconds_training"}),
        ("event", set()),
        ("event.*", set()),
    ],
)
def test_a_metric_may_be_named_plainly_or_with_its_outcome(allowed: str, leaving: set[str]) -> None:
    policy = Policy(allow_without_privacy=True, metrics=(allowed,))
    names = {"event.loss_sum", "death.loss_sum", "personal.event.loss_sum", "seconds_training"}
    assert {name for name in names if policy.allows_metric(name)} == leaving


@pytest.mark.parametrize(
    "limits",
    [
        {"min_patients": 0},
        {"smallest_group": -1},
        {"max_rounds": 2.0},
        {"max_local_steps": "9"},
        {"max_update_norm": 0.0},
        {"max_update_norm": float("nan")},
        {"max_update_norm": float("inf")},
        {"accepted_studies": ["*"]},
        {"smalest_group": 10},
    ],
)
def test_a_limit_that_limits_nothing_is_no_policy(limits: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"allow_without_privacy": True, **limits})


limits = st.tuples(st.booleans(), *[st.integers(1, 60)] * 3)


@pytest.mark.threat("S1-1")
@settings(max_examples=200, deadline=None)
@given(limits, limits, st.integers(0, 60), st.integers(0, 60))
def test_a_stricter_policy_allows_nothing_that_a_laxer_one_refuses(
    tiny_study: Study, first: tuple, second: tuple, num_patients: int, round_number: int
) -> None:
    def policy(allow: bool, fewest: int, rounds: int, steps: int) -> Policy:
        return Policy(
            allow_without_privacy=allow,
            min_patients=fewest,
            max_rounds=rounds,
            max_local_steps=steps,
        )

    stricter = policy(
        first[0] and second[0],
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )
    asked = {"num_patients": num_patients, "round_number": round_number}
    if code_of(stricter, tiny_study, **asked) == "ok":
        assert code_of(policy(*first), tiny_study, **asked) == "ok"
        assert code_of(policy(*second), tiny_study, **asked) == "ok"


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        (("*",), []),
        ((), []),
        (("seconds_training",), []),
        (("num_patients", "event.confusion"), []),
        (("event.num_patients", "confusion"), []),
        (("confusion",), ["none of event"]),
        (("event.confusion", "loss_summ"), ["loss_summ", "none of event"]),
    ],
)
def test_a_person_is_told_of_a_list_of_metrics_that_sends_less_than_it_says(
    new_site, tiny_study: Study, metrics: tuple[str, ...], found: list[str]
) -> None:
    folder = new_site(policy={"metrics": list(metrics)})
    check = check_site(folder, tiny_study)
    assert check.is_usable
    assert [f.found for f in check.findings] == found
    assert all(f.where == "site.toml, policy.metrics" for f in check.findings)


@pytest.mark.parametrize(
    ("decided", "code"),
    [
        ({}, "ok"),
        ({"delta_budget": 2e-4}, "ok"),
        ({"delta_budget": 0.99e-4}, "privacy_too_weak"),
        ({"epsilon_budget": None}, "privacy_too_weak"),
        ({"cohort_size": None}, "privacy_too_weak"),
    ],
    ids=str,
)
def test_a_private_study_trains_where_its_budget_is_decided_and_its_delta_within(
    private: Study, decided: dict[str, float | None], code: str
) -> None:
    floor = {"epsilon_budget": 10.0, "delta_budget": 1e-4, "cohort_size": 45, "min_patients": 20}
    policy = Policy(allow_without_privacy=False, **(floor | decided))
    assert code_of(policy, private) == code


# 45 patients in batches of 16 are 3 steps an epoch; a model of the site's own takes as many again.
@pytest.mark.threat("S1-1")
@pytest.mark.parametrize(
    ("personal", "num_steps"),
    [
        ({"ditto_lambda": 0.5}, 6),
        ({"fine_tune_steps": 2}, 3),
        ({"fine_tune_steps": 11}, 11),
    ],
)
def test_the_steps_of_a_sites_own_model_count(
    tiny_study: Study, personal: dict[str, float], num_steps: int
) -> None:
    study = override(tiny_study, **{f"personal__{key}": value for key, value in personal.items()})
    enough = Policy(allow_without_privacy=True, min_patients=1, max_local_steps=num_steps)
    one_fewer = Policy(allow_without_privacy=True, min_patients=1, max_local_steps=num_steps - 1)
    assert code_of(enough, study) == "ok"
    assert code_of(one_fewer, study) == RefusalCode.STEP_LIMIT
