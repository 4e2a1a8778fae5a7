"""Without privacy, how often a hospital answers is limited: by model and round, and by run."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client.config import load_site_config
from client.ledger.view import view_ledger
from client.site import Site
from common.errors import RefusalCode
from common.messages import OK, Reply, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import override, with_patient_privacy
from tests.unit.private_site_cases import answer, kinds, ledger_of

OpenReal = Callable[..., Site]
_NONCES = itertools.count()


def ask(site: Site, study: Study, number: int, **fields: Any) -> Reply:
    """The answer to a task with model `number` of many, under a nonce of its own."""
    start = state_of(PatientModel(study))
    flat = start.flat + np.float32(number) / 1000
    nonce = f"{next(_NONCES)}"
    return answer(site, study, nonce=nonce, arrays=replace(start, flat=flat), **fields)


@pytest.mark.threat("S1-5")
@pytest.mark.parametrize("kind", [TaskKind.TRAIN, TaskKind.EVALUATE])
def test_a_round_without_privacy_is_answered_for_three_models_and_no_further(
    open_real: OpenReal, tiny_study: Study, kind: TaskKind
) -> None:
    site = open_real(tiny_study)
    told = [ask(site, tiny_study, number, kind=kind).status for number in range(5)]
    assert told == [OK] * 3 + [RefusalCode.ROUND_REPEATED] * 2
    # What was answered once is answered again: a coordinator may have lost the reply.
    assert ask(site, tiny_study, 1, kind=kind).status == OK


@pytest.mark.threat("S1-5")
def test_the_next_round_has_models_of_its_own_but_a_run_is_evaluated_for_three_in_all(
    open_real: OpenReal, tiny_study: Study
) -> None:
    site = open_real(tiny_study)
    rounds = [0, 1, 2, 2, 1]
    trained = [ask(site, tiny_study, n, round=r).status for n, r in enumerate(rounds)]
    assert trained == [OK] * 5
    evaluated = [
        ask(site, tiny_study, n, round=r, kind=TaskKind.EVALUATE).status
        for n, r in enumerate(rounds)
    ]
    assert evaluated == [OK] * 3 + [RefusalCode.ROUND_REPEATED] * 2


def test_a_plain_task_under_the_id_of_a_private_run_is_refused_where_a_round_was_sealed(
    open_real: OpenReal, tiny_study: Study
) -> None:
    private = with_patient_privacy(tiny_study, epsilon=4.0, delta=1e-4)
    site = open_real(tiny_study, private)
    assert answer(site, private, nonce="private").status == OK
    assert ask(site, tiny_study, 0).status == RefusalCode.ROUND_REPEATED
    assert ask(site, tiny_study, 0, round=1).status == OK


@pytest.mark.threat("S1-5")
def test_one_model_under_several_studies_is_several_and_each_is_in_the_books(
    open_real: OpenReal, tiny_study: Study
) -> None:
    studies = [override(tiny_study, training__seed=seed) for seed in range(5)]
    site = open_real(*studies)
    assert [ask(site, study, 0).status for study in studies] == [OK] * 3 + [
        RefusalCode.ROUND_REPEATED
    ] * 2
    answered = [e["fields"]["request"] for e in ledger_of(site) if e["kind"] == "answered"]
    assert [request["study_hash"] for request in answered] == [s.hash for s in studies[:3]]


@pytest.mark.threat("S1-5")
def test_a_run_that_goes_on_with_other_data_says_so_in_the_books(
    open_real: OpenReal, tiny_study: Study, patients: Callable[..., pd.DataFrame]
) -> None:
    site = open_real(tiny_study)
    ask(site, tiny_study, 0)
    site.close()
    patients(61).to_csv(site.folder / "patients.csv", index=False)
    again = open_real(tiny_study, folder=site.folder)
    for round_number in (0, 1):
        assert ask(again, tiny_study, 0, round=round_number).status == OK
    assert kinds(again).count("data_changed") == 1
    assert kinds(again).count("reserved") == 2


@pytest.mark.threat("S1-5")
def test_a_restart_forgets_no_model(open_real: OpenReal, tiny_study: Study) -> None:
    site = open_real(tiny_study, max_models_per_round=1)
    assert ask(site, tiny_study, 0).status == OK
    site.close()
    again = open_real(tiny_study, folder=site.folder)
    assert ask(again, tiny_study, 0).status == OK
    assert ask(again, tiny_study, 1).status == RefusalCode.ROUND_REPEATED


@pytest.mark.threat("S1-5")
def test_another_run_without_privacy_than_the_policy_allows_is_refused(
    open_real: OpenReal, tiny_study: Study
) -> None:
    site = open_real(tiny_study, max_runs_without_privacy=2)
    told = [ask(site, tiny_study, 0, run_id=run).status for run in ("one", "two", "three")]
    assert told == [OK, OK, RefusalCode.RUN_LIMIT]
    assert ask(site, tiny_study, 0, run_id="one", round=1).status == OK


def test_the_books_tell_of_every_model_and_the_view_of_every_round(
    open_real: OpenReal, tiny_study: Study
) -> None:
    site = open_real(tiny_study)
    for round_number in (0, 0, 1, 2):
        ask(site, tiny_study, 0, round=round_number, run_id="one")
    answered = [e["fields"]["request"] for e in ledger_of(site) if e["kind"] == "answered"]
    assert [request["round"] for request in answered] == [0, 1, 2]
    assert all(len(request["arrays_digest"]) == 64 for request in answered)
    config = load_site_config(site.folder)
    (run,) = view_ledger(config.state_dir, dataset_id=config.dataset_id, delta=1e-4).runs
    assert (run.rounds, run.models) == ((0, 1, 2), 3)
