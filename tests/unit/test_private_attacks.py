"""What a hostile coordinator tries at a private site, beyond what its policy allows."""

# fixtures of another module

import secrets
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from client.dp_training import train_privately
from client.site import Site
from common.messages import TaskKind
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from common.receipts import Receipt
from common.study import Study
from tests.unit.builders import patients_of, task_of
from tests.unit.private_probes import plan_with, sgd_study
from tests.unit.private_site_cases import answer, kinds, ledger_of


def charged_runs(site: Site) -> list[tuple[str, str]]:
    """The mechanism and the run of each charge of the ledger."""
    return [
        (charge["mechanism"], entry["fields"]["request"]["run_id"])
        for entry in ledger_of(site)
        if entry["kind"] == "reserved"
        for charge in entry["fields"]["charges"]
    ]


@pytest.mark.threat("S1-5", "S0-2")
def test_exact_values_are_charged_under_the_id_of_a_private_run_too(
    open_real,
    private: Study,
    tiny_study: Study,
) -> None:
    site = open_real(private, tiny_study)
    assert answer(site, private, run_id="one").status == "ok"
    assert answer(site, tiny_study, run_id="one", round=1).status == "ok"
    assert answer(site, tiny_study, run_id="one", round=2).status == "ok"
    assert charged_runs(site) == [("gaussian", "one"), ("unprotected", "one")]
    assert answer(site, private, run_id="two").status == "budget_exceeded"


def test_an_evaluation_that_is_asked_for_again_after_exact_values_tells_no_epsilon(
    open_real, private: Study, tiny_study: Study
) -> None:
    site = open_real(private, tiny_study)
    assert answer(site, private, TaskKind.EVALUATE, round=3, run_id="one").status == "ok"
    assert answer(site, tiny_study, run_id="one", round=1).status == "ok"
    again = answer(site, private, TaskKind.EVALUATE, round=3, run_id="one")
    assert (again.status, again.receipt is None) == ("ok", False)
    assert again.receipt is not None
    assert again.receipt.epsilon is None


def test_a_receipt_without_a_finite_epsilon_is_none() -> None:
    signed = {"seq": 1, "digest": "0" * 64, "key": "0" * 64, "signature": "0" * 128}
    for epsilon in (float("inf"), float("nan"), -1.0):  # no journal could hold it
        with pytest.raises(ValueError, match="epsilon"):
            Receipt(**signed, epsilon=epsilon, delta=1e-4)


@pytest.mark.threat("S1-4")
def test_an_empty_run_id_is_refused_before_it_is_paid_for(
    open_real,
    private: Study,
) -> None:
    site = open_real(private)
    replies = [answer(site, private, kind, run_id="") for kind in TaskKind]
    assert {reply.status for reply in replies} == {"message_malformed"}
    assert set(kinds(site)) == {"opened", "refused"}


@pytest.mark.threat("S1-5")
def test_every_task_has_noise_of_a_key_of_its_own(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, real = open_real(private), secrets.token_bytes
    keys: list[bytes] = []

    def noted(num_bytes: int) -> bytes:
        keys.append(real(num_bytes))
        return keys[-1]

    monkeypatch.setattr(secrets, "token_bytes", noted)
    assert [answer(site, private, round=r).status for r in range(3)] == ["ok"] * 3
    assert len(set(keys)) == 3


class _Listening:
    """Notes the state of torch's generator as a model's forward pass begins."""

    def __init__(self) -> None:
        self.states: list[np.ndarray] = []

    def note(self, *_: object) -> None:
        self.states.append(torch.get_rng_state().numpy()[24 : 24 + 8 * 624].view("<u8").copy())


@pytest.mark.threat("S0-1")
def test_dropout_of_private_training_is_not_drawn_from_a_seed_that_can_be_tried_out() -> None:
    study = sgd_study()
    model, ear = PatientModel(study), _Listening()
    model.register_forward_pre_hook(ear.note)
    plan = plan_with(sample_rate=1.0)
    patients = patients_of(study, 5)
    train_privately(model, patients, study, plan, source=NoiseSource.seeded(0), seed=1)
    assert len(ear.states) == plan.steps_per_round
    for words in ear.states:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(words[0]))  # all that 32 bits of a seed can give
            given = torch.get_rng_state().numpy()[24 : 24 + 8 * 624].view("<u8")
        assert words.max() < 2**32
        assert (words == given).sum() < 4


def test_the_filled_state_is_the_one_that_torch_draws_from() -> None:
    study = sgd_study()
    model, ear = PatientModel(study), _Listening()
    drawn: list[int] = []
    model.register_forward_pre_hook(ear.note)
    model.register_forward_pre_hook(
        lambda *_: drawn.append(int(torch.empty(1, dtype=torch.int64).random_(0, 2**31)))
    )
    plan = plan_with(sample_rate=1.0, steps_per_round=1)
    train_privately(model, patients_of(study, 5), study, plan, source=NoiseSource.seeded(0), seed=1)
    oracle = np.random.MT19937()
    oracle.state = {
        "bit_generator": "MT19937",
        "state": {"key": ear.states[0].astype(np.uint32), "pos": 624},
    }
    # Torch takes two words for a number of 64 bits, the upper half first.
    assert drawn == [int(oracle.random_raw(2)[1]) % 2**31]


def test_another_table_of_patients_among_the_same_files_makes_other_data(
    open_real,
    private: Study,
) -> None:
    site = open_real(private)
    table = (site.folder / "patients.csv").read_text(encoding="utf-8")
    turned = table.replace("train", "x").replace("test", "train").replace("x", "test")
    (site.folder / "turned.csv").write_text(turned, encoding="utf-8")
    site.close()
    site = open_real(private, folder=site.folder)
    assert answer(site, private).status == "ok"
    site.close()
    path = site.folder / "site.toml"
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    sections["data"] = {**sections.get("data", {}), "patients": "turned.csv"}
    path.write_text(tomli_w.dumps(sections), encoding="utf-8")
    again = open_real(private, folder=site.folder)
    assert answer(again, private, TaskKind.EVALUATE, round=3).status == "ok"
    assert "data_changed" in kinds(again)
    splits = {c["split"] for e in ledger_of(again) for c in e["fields"].get("charges", ())}
    assert len(splits) == 2  # those who were trained on are evaluated now: both costs add up


@pytest.mark.threat("S1-1")
@pytest.mark.parametrize("clip", [0.0, 1e-13, 1e-7, 1e7, 1e300])
def test_a_clip_that_training_cannot_keep_exactly_is_no_study(private: Study, clip: float) -> None:
    table = private.model_dump(mode="json", exclude_none=True)
    table["privacy"]["max_grad_norm"] = clip
    with pytest.raises(ValueError, match="max_grad_norm"):
        Study.model_validate(table)


def test_workers_of_a_simulation_take_turns_with_the_ledger_of_a_site(
    new_site, private: Study, tmp_path: Path
) -> None:
    folder, state = new_site(policy={"min_patients": 20}), tmp_path / "state"
    workers = [Site.simulated(folder, private, state_dir=state, takes_turns=True) for _ in range(2)]
    rounds = [workers[r % 2].answer(task_of(private, round=r)) for r in range(3)]
    assert [reply.status for reply in rounds] == ["ok"] * 3
    assert workers[0].answer(task_of(private, round=1)).arrays == rounds[1].arrays
    evaluations = [
        workers[number].answer(task_of(private, TaskKind.EVALUATE, round=2 + number)).status
        for number in (1, 0)
    ]
    assert evaluations == ["ok", "budget_exceeded"]  # the plan has one
