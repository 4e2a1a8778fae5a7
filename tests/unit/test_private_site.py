"""A hospital under privacy: paid before worked, never twice, never below its own policy."""

from math import inf
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import client.work
from client.config import load_site_config
from client.data import read_cohort
from client.ledger.view import view_ledger
from client.policy import Policy
from common.arrays import Arrays
from common.errors import Refusal, SiteConfigError, StudyError
from common.messages import TaskKind
from common.models.patient_model import PatientModel, state_of
from common.privacy.plan import plan_of
from common.study import Study
from common.study_file import override, with_patient_privacy
from tests.unit.private_site_cases import BUDGET, DELTA, EPSILON, answer, kinds, ledger_of


def shifted(study: Study) -> Arrays:
    """The model's arrays, a little moved: another task for the same round."""
    state = state_of(PatientModel(study))
    return Arrays(manifest=state.manifest, flat=state.flat + np.float32(0.5))


def test_a_private_update_is_charged_sealed_and_signed(open_real, private: Study) -> None:
    site = open_real(private)
    reply = answer(site, private)
    assert (reply.status, reply.metrics) == ("ok", {})
    assert reply.counts == {"patients": 1, "labs": 1, "lifestyle": 1, "event": 1}
    assert kinds(site) == ["opened", "reserved", "sealed", "sent"]
    reserved = ledger_of(site)[1]["fields"]
    assert reserved["source_kind"] == "secure"
    assert reply.receipt is not None
    assert reply.receipt.seq == 2  # the seal, not yet that it was sent


@pytest.mark.threat("S1-5")
def test_the_same_task_again_gets_the_sealed_update_and_costs_nothing(
    open_real, private: Study
) -> None:
    site = open_real(private)
    first, second = answer(site, private), answer(site, private, nonce="again")
    assert first.arrays == second.arrays
    assert second.nonce == "again"
    assert kinds(site).count("reserved") == 1


@pytest.mark.threat("S1-5")
def test_a_round_is_answered_for_one_model_alone(open_real, private: Study) -> None:
    site = open_real(private)
    answer(site, private)
    reply = answer(site, private, arrays=shifted(private))
    assert (reply.status, reply.arrays) == ("round_repeated", None)
    assert kinds(site)[-1] == "refused"


@pytest.mark.threat("S0-1")
def test_no_seed_of_the_study_or_of_torch_repeats_the_noise_of_a_real_site(
    open_real, private: Study
) -> None:
    updates = []
    for _ in range(2):
        torch.manual_seed(0)
        reply = answer(open_real(private), private)
        assert reply.arrays is not None
        updates.append(reply.arrays.flat)
    assert not np.array_equal(*updates)


@pytest.mark.threat("S1-5", "S0-2")
def test_a_private_evaluation_is_done_once(open_real, private: Study) -> None:
    site = open_real(private)
    first = answer(site, private, TaskKind.EVALUATE, round=3)
    assert first.metrics
    assert first.receipt is not None
    assert first.receipt.epsilon is not None
    assert 0 < first.receipt.epsilon <= EPSILON
    assert answer(site, private, TaskKind.EVALUATE, round=3).metrics == first.metrics
    other = answer(site, private, TaskKind.EVALUATE, round=2, arrays=shifted(private))
    assert other.status == "budget_exceeded"


def test_training_that_fails_stays_charged_and_the_spare_round_is_the_last(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_real(private)

    def fails(*_: object, **__: object) -> int:
        raise RuntimeError("Mrs Miller, born 1943")

    with monkeypatch.context() as broken:
        broken.setattr(client.work, "train_privately", fails)
        assert answer(site, private).status == "internal_error"
        assert kinds(site) == ["opened", "reserved", "refused"]
        assert answer(site, private).status == "internal_error"
    replies = [answer(site, private, round=r) for r in (0, 1)]
    assert [r.status for r in replies] == ["ok"] * 2  # 2 + 2 of 3 rounds and a spare one
    assert answer(site, private, round=2).status == "budget_exceeded"


@pytest.mark.parametrize("missing", ["epsilon_budget", "cohort_size"])
def test_a_site_where_nobody_has_decided_on_a_budget_refuses(
    open_real, private: Study, missing: str
) -> None:
    reply = answer(open_real(private, **{missing: None}), private, TaskKind.ENROL)
    assert (reply.status, reply.counts) == ("privacy_too_weak", {})


@pytest.mark.threat("S1-1")
def test_a_larger_delta_than_the_policys_is_refused(open_real, tiny_study: Study) -> None:
    public = override(tiny_study, normalisation__method="public_range")
    lax = with_patient_privacy(public, epsilon=EPSILON, delta=1e-3)
    assert answer(open_real(lax), lax, TaskKind.ENROL).status == "privacy_too_weak"


def test_a_site_does_not_enrol_where_the_whole_run_has_no_room(open_real, private: Study) -> None:
    site = open_real(private, epsilon_budget=EPSILON * 0.9)
    assert answer(site, private, TaskKind.ENROL).status == "budget_exceeded"
    assert kinds(site) == ["opened", "refused"]


@pytest.mark.threat("S1-5")
def test_all_runs_on_a_data_set_spend_one_budget(open_real, private: Study) -> None:
    site = open_real(private, epsilon_budget=EPSILON * 1.2)
    statuses = []
    for run in ("first", "second"):
        statuses += [answer(site, private, TaskKind.ENROL, run_id=run).status]
        statuses += [answer(site, private, run_id=run, round=r).status for r in range(3)]
    assert statuses[:4] == ["ok"] * 4
    assert statuses[4] == "budget_exceeded"
    folder = site.folder
    view = view_ledger(load_site_config(folder).state_dir, dataset_id="d", delta=DELTA)
    assert view.spent <= EPSILON * 1.2


@pytest.mark.threat("S1-1")
def test_a_stricter_policy_adds_noise_instead_of_refusing(open_real, private: Study) -> None:
    site = open_real(private, epsilon_per_run=1.0)
    assert answer(site, private, TaskKind.ENROL).status == "ok"
    reply = answer(site, private, TaskKind.EVALUATE, round=3)
    assert reply.receipt is not None
    assert reply.receipt.epsilon is not None
    assert reply.receipt.epsilon <= 1.0


def test_after_a_run_without_privacy_no_budget_is_left(
    open_real, tiny_study: Study, private: Study
) -> None:
    site = open_real(tiny_study, private)
    assert answer(site, tiny_study, run_id="plain").status == "ok"
    assert answer(site, tiny_study, run_id="plain", round=1).status == "ok"
    charged = [e for e in ledger_of(site) if e["kind"] == "reserved"]
    assert [e["fields"]["charges"][0]["mechanism"] for e in charged] == ["unprotected"]
    assert answer(site, private, run_id="private").status == "budget_exceeded"


def test_what_costs_nothing_leaves_no_trace_in_the_ledger(open_real, private: Study) -> None:
    site = open_real(private)
    for _ in range(20):
        assert answer(site, private, TaskKind.ENROL).status == "ok"
    assert kinds(site) == ["opened"]


@pytest.mark.threat("S1-5")
def test_whoever_asks_for_what_is_refused_does_not_fill_the_disk(open_real, private: Study) -> None:
    site = open_real(private)
    for _ in range(20):
        assert answer(site, private, arrays=None).status == "arrays_mismatch"
    assert kinds(site) == ["opened", "refused"]


def test_a_private_study_of_more_rounds_than_the_policy_allows_stops_the_site_at_once(
    open_real, private: Study
) -> None:
    endless = override(private, training__rounds=10**9)
    with pytest.raises(SiteConfigError, match=r"Expected the policy to allow .* at most 1000"):
        open_real(endless)


def test_a_ledger_is_open_to_one_process_alone(open_real, private: Study) -> None:
    site = open_real(private)
    with pytest.raises(SiteConfigError, match="no other process has open"):
        open_real(private, folder=site.folder)


def test_a_cohort_size_can_be_decided_once_and_not_changed(open_real, private: Study) -> None:
    site = open_real(private, cohort_size=None)
    site.close()
    path = site.folder / "site.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[policy]", "[policy]\ncohort_size = 45"), encoding="utf-8")
    decided = open_real(private, folder=site.folder)
    assert answer(decided, private).status == "ok"
    decided.close()
    path.write_text(text.replace("[policy]", "[policy]\ncohort_size = 99"), encoding="utf-8")
    with pytest.raises(SiteConfigError, match="cohort_size = 45"):
        open_real(private, folder=site.folder)


def test_what_the_data_hold_is_not_read_from_the_policy_file(open_real, private: Study) -> None:
    site = open_real(private)
    answer(site, private)
    site.close()
    path = site.folder / "site.toml"
    path.write_text(path.read_text(encoding="utf-8") + "# a note\n", encoding="utf-8")
    again = open_real(private, folder=site.folder)
    answer(again, private, round=1)
    assert "data_changed" not in kinds(again)


def test_other_data_are_noticed_and_what_was_spent_carries_over(
    open_real, private: Study, patients
) -> None:
    site = open_real(private)
    answer(site, private)
    site.close()
    patients(61).to_csv(site.folder / "patients.csv", index=False)
    again = open_real(private, folder=site.folder)
    assert answer(again, private, round=1).status == "ok"
    assert "data_changed" in kinds(again)
    assert kinds(again).count("reserved") == 2


@settings(max_examples=20)
@given(age=st.sampled_from([18, 100, 55]), event=st.sampled_from([0, 1]), is_test=st.booleans())
def test_one_more_patient_changes_no_row_of_the_others(
    new_site, patients, private: Study, age: int, event: int, is_test: bool
) -> None:
    table = patients()
    more = {
        **table.iloc[0].to_dict(),
        "patient_id": "extreme",
        "age_years": age,
        "cholesterol_mg_dl": 500,
        "event": event,
        "split": "test" if is_test else "train",
    }
    larger = pd.concat([table, pd.DataFrame([more])], ignore_index=True)
    cohorts = [read_cohort(load_site_config(new_site(t)), private)[0] for t in (table, larger)]
    before, after = cohorts
    assert before is not None
    assert after is not None
    assert len(after) == len(before) + 1
    for parts in ("arrays", "outcomes"):
        for name, arrays in getattr(before, parts).items():
            for key, value in arrays.items():
                np.testing.assert_array_equal(getattr(after, parts)[name][key][: len(value)], value)


@pytest.mark.threat("S0-2")
def test_what_enrolment_says_does_not_depend_on_who_is_there(
    open_real, new_site, patients, private: Study
) -> None:
    replies = []
    for num_patients in (60, 61):
        policy = {**BUDGET, "accepted_studies": [private.hash]}
        folder = new_site(patients(num_patients), policy=policy)
        replies.append(answer(open_real(private, folder=folder), private, TaskKind.ENROL))
    first, second = replies
    assert (first.counts, first.metrics, first.arrays) == (second.counts, second.metrics, None)


def _hostile() -> st.SearchStrategy[dict[str, Any]]:
    """Privacy sections that a server may dream of."""
    positive = st.floats(1e-6, 1e6)
    noise = st.one_of(
        st.fixed_dictionaries({"epsilon": positive}),
        st.fixed_dictionaries({"noise_multiplier": positive}),
    )
    others = st.fixed_dictionaries(
        {"mode": st.just("patient"), "delta": st.sampled_from([1e-9, 1e-5, 1e-4, 1e-3, 0.5])},
        optional={
            "max_grad_norm": positive,
            "spare_rounds": st.integers(0, 2000),
            "statistics_share": st.floats(0, 1),
            "evaluation_bins": st.integers(0, 2000),
        },
    )
    return st.builds(lambda a, b: {**a, **b}, noise, others)


@pytest.mark.threat("S1-1", "S0-1")
@settings(max_examples=500 if settings.default.max_examples > 500 else 25)
@given(
    privacy=_hostile(),
    rounds=st.integers(1, 2000),
    steps=st.integers(1, 200),
    batch_size=st.integers(1, 500),
)
def test_no_study_gets_below_the_policy(
    tiny_study: Study, privacy: dict[str, Any], rounds: int, steps: int, batch_size: int
) -> None:
    policy = Policy.model_validate(
        {"allow_without_privacy": False, "epsilon_per_run": 2.0, "min_noise_multiplier": 0.8}
        | {**BUDGET, "min_patients": 20}
    )
    table = tiny_study.model_dump(mode="json", exclude_none=True)
    table["privacy"] = privacy
    table["training"] = {"rounds": rounds, "local_steps": steps, "batch_size": batch_size}
    try:
        study = Study.model_validate(table)
        policy.check_study(study, 45)
        plan = plan_of(
            study,
            cohort_size=45,
            epsilon_cap=policy.epsilon_per_run or inf,
            min_noise_multiplier=policy.min_noise_multiplier,
        )
    except (Refusal, StudyError, ValueError):
        return
    assert plan.epsilon <= 2.0
    assert plan.delta <= policy.delta_budget
    noises = [plan.noise_multiplier, plan.evaluation_noise_multiplier]
    assert min(noises) >= 0.8
    assert plan.moments_noise_multiplier is None or plan.moments_noise_multiplier >= 0.8
