"""A hostile coordinator, whose signature is right: the hospital's own door has to hold.

One budget drain of 60 tasks; 1,000 under `WARDROUND_HYPOTHESIS=full`.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client.agent_service import answer_bytes
from client.site import Site
from common import wire
from common.arrays import Arrays, Block
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import override
from simulations.rehearsal import reply_of
from tests.campaigns import IS_FULL, Campaign
from tests.unit.agent_cases import bytes_of
from tests.unit.builders import task_of
from tests.unit.consortium import signed
from tests.unit.private_site_cases import BUDGET, answer, kinds, ledger_of

NUM_ASKED = 1000 if IS_FULL else 60


def with_arrays(change: Callable[[Arrays], Arrays]) -> Callable[[Task], Task]:
    def changed(task: Task) -> Task:
        assert task.arrays is not None
        return replace(task, arrays=change(task.arrays))

    return changed


def with_layer(arrays: Arrays) -> Arrays:
    manifest = (*arrays.manifest, Block(name="encoders.labs.trap", shape=(2, 2)))
    return Arrays(manifest=manifest, flat=np.append(arrays.flat, np.ones(4, dtype=np.float32)))


def renamed(arrays: Arrays) -> Arrays:
    first, *others = arrays.manifest
    return replace(arrays, manifest=(replace(first, name="encoders.labs.trap"), *others))


def reshaped(arrays: Arrays) -> Arrays:
    first, *others = arrays.manifest
    return replace(arrays, manifest=(replace(first, shape=(first.size, 1)), *others))


def filled(value: float) -> Callable[[Task], Task]:
    return with_arrays(lambda a: replace(a, flat=np.full_like(a.flat, value)))


def asking_for(**changes: Any) -> Callable[[Task, Study], Task]:
    """A task of a study with other settings, which the hospital has not accepted."""
    return lambda task, study: replace(task, study_hash=override(study, **changes).hash)


ATTACKS: dict[str, tuple[Callable[[Task, Study], Task], str]] = {
    "a larger epsilon": (asking_for(privacy__epsilon=9.0), "study_not_accepted"),
    "a larger delta": (asking_for(privacy__delta=9e-4), "study_not_accepted"),
    "a larger learning rate": (asking_for(training__learning_rate=9.0), "study_not_accepted"),
    "batches of one patient": (asking_for(training__batch_size=1), "study_not_accepted"),
    "more epochs": (asking_for(training__local_epochs=99), "study_not_accepted"),
    "more rounds": (asking_for(training__rounds=99), "study_not_accepted"),
    "another bundle": (lambda task, _: replace(task, code="0" * 16), "code_mismatch"),
    "a round beyond all": (lambda task, _: replace(task, round=10**6), "round_limit"),
    "a round beyond the study's": (lambda task, s: replace(task, round=4), "round_limit"),
    "a layer more": (lambda task, _: with_arrays(with_layer)(task), "arrays_mismatch"),
    "a layer by another name": (lambda task, _: with_arrays(renamed)(task), "arrays_mismatch"),
    "a layer of another shape": (lambda task, _: with_arrays(reshaped)(task), "arrays_mismatch"),
    "no model": (lambda task, _: replace(task, arrays=None), "arrays_mismatch"),
    "a model of NaN": (lambda task, _: filled(float("nan"))(task), "arrays_not_finite"),
    "a model of infinity": (lambda task, _: filled(float("inf"))(task), "arrays_not_finite"),
}


@pytest.mark.threat("S1-1", "S1-2", "S1-3", "S1-4")
@pytest.mark.parametrize(("attack", "code"), ATTACKS.values(), ids=ATTACKS)
def test_the_coordinators_own_signature_opens_nothing_that_was_not_agreed(
    open_real, private: Study, attack: Callable[[Task, Study], Task], code: str
) -> None:
    site = open_real(private)
    reply = site.answer(signed(attack(task_of(private), private)))
    assert (reply.status, reply.arrays, reply.metrics) == (code, None, {})
    assert "reserved" not in kinds(site)


@pytest.mark.threat("S1-5")
def test_one_round_asked_a_thousand_times_is_paid_once_and_says_one_thing(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch, campaign: Campaign
) -> None:
    campaign.tries(NUM_ASKED, "tasks of one round")
    # The disk is waited for in the tests of the ledger.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    site = open_real(private)
    replies = [answer(site, private, nonce=f"n{number}") for number in range(NUM_ASKED)]
    updates = {r.arrays.flat.tobytes() for r in replies if r.arrays is not None}
    num_paid = [entry["kind"] for entry in ledger_of(site)].count("reserved")
    campaign.found({"updates": len(updates), "paid": num_paid})
    assert (len(updates), num_paid) == (1, 1)


@pytest.mark.threat("S1-5")
def test_a_thousand_models_of_one_round_without_privacy_are_answered_thrice(
    open_real, tiny_study: Study, monkeypatch: pytest.MonkeyPatch, campaign: Campaign
) -> None:
    campaign.tries(NUM_ASKED, "models of one round without privacy")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    site, start = open_real(tiny_study), state_of(PatientModel(tiny_study))
    told = Counter(
        answer(
            site,
            tiny_study,
            nonce=f"n{number}",
            arrays=replace(start, flat=start.flat + np.float32(number)),
        ).status
        for number in range(NUM_ASKED)
    )
    campaign.found(dict(told))
    assert told == {"ok": 3, "round_repeated": NUM_ASKED - 3}
    # Each model that was worked on is in the books, and no other as one that was.
    assert Counter(entry["kind"] for entry in ledger_of(site)) == {
        "opened": 1,
        "reserved": 1,
        "answered": 3,
        "refused": NUM_ASKED - 3,
    }


# A model that copies one patient into its update (Fowl et al. 2022, arXiv:2110.13057).

AGE, CHOLESTEROL, FLAG = 0, 1, 2


def oldest_of(table: pd.DataFrame, model: dict[str, np.ndarray]) -> np.ndarray:
    """The normalised age and cholesterol of the two oldest patients in training, oldest first."""
    training = table[table["split"] == "train"].sort_values("age_years", ascending=False)
    values = training[["age_years", "cholesterol_mg_dl"]].to_numpy(dtype=np.float64)[:2]
    location, scale = (model[f"encoders.labs.{name}"] for name in ("location", "scale"))
    return (values - location) / scale


def trap(study: Study, table: pd.DataFrame) -> Arrays:
    """The study's own model, but its first layer answers to the oldest patient alone."""
    state = state_of(PatientModel(study))
    named = {name: value.copy() for name, value in state.unpack().items()}
    threshold = oldest_of(table, named)[:, AGE].mean()
    # So steep that whoever is younger is flat at zero.
    named["encoders.labs.numbers.weight"][:] = 0.0
    named["encoders.labs.numbers.weight"][:, AGE] = 1e4
    named["encoders.labs.numbers.bias"][:] = -1e4 * threshold
    named["encoders.labs.categories.weight"][:] = 0.0
    return Arrays.pack(named)


def is_recovered(reply: Reply, study: Study, table: pd.DataFrame) -> bool:
    """Whether any unit of the first layer tells the oldest patient's cholesterol, to a thousandth.

    The gradient of a weight is that of the flag of what is observed, times the value.
    """
    assert reply.arrays is not None
    _, true = oldest_of(table, state_of(PatientModel(study)).unpack())[0]
    update = reply.arrays.unpack()["encoders.labs.numbers.weight"].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        told = update[:, CHOLESTEROL] / update[:, FLAG]
    return bool((np.abs(told - true) < 1e-3).any())


@pytest.fixture
def table(patients: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """Patients of whom one is older than all others, by years."""
    made = patients()
    made.loc[made["split"] == "train", "age_years"] = made["age_years"].clip(upper=80)
    first = made.index[made["split"] == "train"][0]
    made.loc[first, "age_years"] = 95
    return made


def trapped(site: Site, study: Study, table: pd.DataFrame) -> Reply:
    task = task_of(study, TaskKind.TRAIN, arrays=trap(study, table))
    return site.answer(signed(task))


@pytest.mark.threat("S0-1", "S1-2")
def test_trap_weights_tell_a_patient_without_privacy_and_nobody_at_the_default_policy(
    open_real, new_site, private: Study, tiny_study: Study, table: pd.DataFrame
) -> None:
    plain = override(
        tiny_study,
        normalisation__method="public_range",
        training__batch_size=64,
        training__learning_rate=0.01,
    )

    def site_for(study: Study, **policy: Any) -> Site:
        allowed = {**BUDGET, "accepted_studies": [study.hash], **policy}
        return open_real(study, folder=new_site(table, policy=allowed))

    open_to_all = site_for(plain, allow_without_privacy=True)
    assert is_recovered(trapped(open_to_all, plain, table), plain, table)  # the attack is one
    careful = site_for(plain, allow_without_privacy=False)
    assert trapped(careful, plain, table).status == "privacy_required"
    protected = trapped(site_for(private, allow_without_privacy=False), private, table)
    assert protected.status == "ok"
    assert not is_recovered(protected, private, table)


# Weights at which a patient's numbers overflow: whoever is refused for it is told of.

EXTREME = {
    "the largest": lambda random, size: np.full(size, 3e38),
    "of both signs": lambda random, size: random.choice([-3e38, 3e38], size),
    "here and there": lambda random, size: np.where(
        random.random(size) < 0.2, 3e38, random.normal(size=size)
    ),
    "whose squares overflow": lambda random, size: random.choice([-1e19, 1e19], size),
}


@pytest.mark.threat("S0-1", "S1-2")
@pytest.mark.parametrize("weights", EXTREME.values(), ids=EXTREME)
def test_no_weights_make_a_private_reply_depend_on_whose_numbers_overflow(
    open_real, private: Study, weights: Callable[[np.random.Generator, int], np.ndarray]
) -> None:
    study = override(private, personal__ditto_lambda=0.1)
    site, random = open_real(study), np.random.default_rng(0)

    def extreme(arrays: Arrays) -> Arrays:
        return replace(arrays, flat=weights(random, arrays.flat.size).astype(np.float32))

    for kind in (TaskKind.TRAIN, TaskKind.EVALUATE):
        reply = site.answer(signed(with_arrays(extreme)(task_of(study, kind))))
        # A refusal would be an answer about somebody, outside of the noise.
        assert reply.status == "ok"
        assert reply.arrays is None or reply.arrays.is_finite()
        assert all(np.isfinite(values).all() for values in reply.metrics.values())


# Messages of few bytes that would be much in memory, from whoever carries messages: unsigned.


@pytest.mark.threat("N-3", "S1-4")
def test_a_message_that_is_larger_than_any_task_of_the_site_is_not_read(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_real(private)
    whole = bytes_of(task_of(private), "alpha")
    assert len(whole) < site.most_task_bytes
    assert reply_of(answer_bytes(site, whole, TaskKind.TRAIN)).status == "ok"
    monkeypatch.setattr(wire, "records_from_bytes", lambda _: pytest.fail("it was read"))
    bomb = bytes(site.most_task_bytes + 1)
    data = answer_bytes(site, bomb, TaskKind.TRAIN)
    monkeypatch.undo()
    assert reply_of(data).status == "message_malformed"
