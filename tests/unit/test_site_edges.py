"""The edges of the door that mutants of its code showed to be unguarded."""

from pathlib import Path

import pytest
import torch

import client.work
from client.config import load_site_config
from client.site import Site
from common.errors import RefusalCode
from common.messages import TaskKind
from common.study import Study
from common.study_file import override
from tests.unit.builders import task_of
from tests.unit.private_site_cases import EPSILON, answer, kinds, ledger_of
from tests.unit.site_cases import audit_of


def test_what_the_policy_kept_back_is_in_the_audit_log(
    open_real, new_site, tiny_study: Study
) -> None:
    plain = override(tiny_study, normalisation__method="public_range")
    policy = {"accepted_studies": [plain.hash], "metrics": ["num_patients"], "min_patients": 20}
    site = open_real(plain, folder=new_site(policy=policy | {"allow_without_privacy": True}))
    assert answer(site, plain).status == "ok"
    state = load_site_config(site.folder).state_dir
    (line,) = audit_of(state)
    assert "event.confusion" in line["withheld"]
    assert "event.num_patients" not in line["withheld"]


def test_a_task_for_which_memory_ran_out_is_refused_in_the_ledger_too(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_real(private)

    def raising(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(client.work, "train_privately", raising)
    assert answer(site, private).status == RefusalCode.OUT_OF_MEMORY
    assert kinds(site) == ["opened", "reserved", "refused"]
    assert RefusalCode.OUT_OF_MEMORY.value in str(ledger_of(site)[-1])


def test_a_message_that_is_no_task_is_refused_and_on_record(open_real, private: Study) -> None:
    site = open_real(private)
    reply = site.refuse_malformed(TaskKind.TRAIN)
    said = (reply.kind, reply.run_id, reply.round, reply.nonce, reply.site, reply.status)
    assert said == (TaskKind.TRAIN, "", 0, "", "alpha", "message_malformed")
    assert reply.signature is not None
    (line,) = audit_of(load_site_config(site.folder).state_dir)
    names = ("kind", "run_id", "round", "nonce", "study_hash", "status", "withheld")
    assert [line[name] for name in names] == ["train", "", 0, "", "", "message_malformed", []]


@pytest.mark.threat("S1-5")
def test_a_round_that_fits_is_answered_where_the_rest_of_its_run_does_not(
    open_real, private: Study
) -> None:
    site = open_real(private, epsilon_budget=EPSILON * 1.05)
    assert answer(site, private, run_id="first").status == "ok"
    assert answer(site, private, run_id="second").status == "ok"
    assert answer(site, private, TaskKind.ENROL, run_id="third").status == "budget_exceeded"


def test_workers_that_take_turns_write_refusals_into_the_ledger(
    new_site, private: Study, tmp_path: Path
) -> None:
    folder, state = new_site(policy={"min_patients": 20}), tmp_path / "state"
    site = Site.simulated(folder, private, state_dir=state, takes_turns=True)
    assert site.answer(task_of(private, code="another")).status == "code_mismatch"
    (path,) = (state / "ledger").glob("*.jsonl")
    refused = path.read_text(encoding="utf-8").splitlines()[-1]
    assert "code_mismatch" in refused
    assert '"study":"tiny"' in refused


def test_the_noise_of_a_simulated_site_is_its_own_and_its_observer_is_told(
    new_site, private: Study, tmp_path: Path
) -> None:
    told, updates = [], []
    for name in ("alpha", "beta", "beta"):
        site = Site.simulated(
            new_site(name=name, policy={"min_patients": 20}),
            private,
            state_dir=tmp_path / f"state-{len(updates)}",
            observer=lambda number, *_: told.append(number),
        )
        reply = site.answer(task_of(private, round=1))
        site.close()
        assert reply.arrays is not None
        updates.append(reply.arrays.flat.tobytes())
    assert updates[0] != updates[1] == updates[2]
    assert told == [1, 1, 1]


def test_the_log_tells_where_it_failed(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_real(private)

    def raising(*_: object, **__: object) -> None:
        raise RuntimeError("Mrs Miller")

    monkeypatch.setattr(client.work, "train_privately", raising)
    assert answer(site, private).status == RefusalCode.INTERNAL_ERROR
    assert f"RuntimeError at {Path(__file__).name}:" in caplog.text
