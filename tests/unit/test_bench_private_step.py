"""The benchmark of private steps: what it compares gives one sum, and its figures are ratios."""

from typing import Any

import pytest
import torch
from rich.console import Console

from common.models.patient_model import PatientModel
from common.study import Study
from simulations.bench import private_step
from simulations.bench.private_models import MODELS, batch_of, study_of
from simulations.bench.private_modes import MODES, one_by_one, ours, why_not
from simulations.bench.private_step import Case, measure, memory, summary
from simulations.bench.report import private_step_table
from tests.unit.encoder_cases import granularity_of

# Opacus warns of hooks that it sets itself.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def study() -> Study:
    parts = {
        "tabular": granularity_of("tabular").model_dump(),
        "text": granularity_of("notes", encoder="transformer").model_dump(),
    }
    return Study.model_validate(study_of("tabular").model_dump() | {"granularities": parts})


def small_batch(study: Study) -> Any:
    inputs, outcomes = batch_of(study, 3)
    inputs["tabular"]["codes_BK"] = torch.ones(3, 2, dtype=torch.long)
    return inputs, outcomes


def test_the_fusion_model_has_all_parts_and_the_others_one_each() -> None:
    assert set(MODELS["fusion"]) > {"tabular", "image", "series", "text"}
    assert all(MODELS[name] == [name] for name in MODELS if name != "fusion")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_the_patients_made_for_it(name: str) -> None:
    study = study_of(name)
    model, (inputs, outcomes) = PatientModel(study), batch_of(study, 2)
    loss_B = model.loss_per_patient(model(inputs), outcomes)
    assert loss_B.shape == (2,)
    assert loss_B.isfinite().all()


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("plain", "ew")])
def test_every_mode_gives_the_clipped_sum(mode: str, study: Study) -> None:
    batch = small_batch(study)
    expected = one_by_one(PatientModel(study).train())(batch)
    gradients = MODES[mode](PatientModel(study).train())
    assert why_not(gradients, batch, expected) is None
    assert why_not(gradients, batch, expected) is None  # and at the second step too


def test_a_mode_that_gives_another_sum_or_fails_is_told_apart(study: Study) -> None:
    batch = small_batch(study)
    model = PatientModel(study).train()
    expected = ours(model)(batch)
    doubled = why_not(lambda batch: [2 * total for total in expected], batch, expected)
    assert doubled == "another sum, by 1.0e+00"

    def fails(batch: object) -> list[torch.Tensor]:
        raise RuntimeError("no dictionaries")

    assert why_not(fails, batch, expected) == "RuntimeError: no dictionaries"


def test_a_case_is_a_ratio_for_each_mode_and_a_summary() -> None:
    case = Case(model="tabular", batch=3, repetitions=1)
    rows = measure(study_of("tabular"), case)
    assert [row["mode"] for row in rows] == [
        "ours",
        "ours_secure",
        *(mode for mode in MODES if mode not in ("plain", "ours")),
    ]
    for row in rows:
        assert (row["over_plain"] is None) == (row["why_not"] is not None)
        assert row["over_plain"] is None or row["over_plain"] > 0
    (only,) = summary(rows)
    assert (only["model"], only["batch"]) == ("tabular", 3)
    assert only["ours_over_plain"] == rows[0]["over_plain"]
    assert only["ours_secure_over_plain"] == rows[1]["over_plain"]


def test_the_loop_is_left_out_of_large_batches() -> None:
    rows = measure(study_of("tabular"), Case(model="tabular", batch=33, repetitions=1))
    assert "one_by_one" not in {row["mode"] for row in rows}


def test_measuring_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure(study_of("tabular"), Case(model="tabular", batch=2, repetitions=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_is_that_of_processes_of_their_own() -> None:
    found = memory("tabular", 4)
    assert found["ours_over_plain"] == found["ours_bytes"] / found["plain_bytes"]
    for mode in ("plain", "ours"):
        assert 0 <= found[f"{mode}_step_bytes"] < found[f"{mode}_bytes"]
        assert found[f"{mode}_bytes"] > 10_000_000


def test_results_are_shown_as_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(private_step, "QUICK", (Case(model="tabular", batch=2, repetitions=1),))
    monkeypatch.setattr(private_step, "memory", lambda *args: _MEMORY)
    result = private_step.bench_private_step(echo=told.append)
    assert len(told) == 2
    result["cases"][3] |= {"over_plain": None, "why_not": "RuntimeError: no"}
    console = Console(width=200, record=True)
    for table in private_step_table(result):
        console.print(table)
    shown = console.export_text()
    for expected in ("ours_secure", "tabular", "0.70", "–", "RuntimeError: no"):
        assert expected in shown


_MEMORY = {
    "model": "fusion",
    "batch": 512,
    "plain_bytes": 1000,
    "ours_bytes": 700,
    "plain_step_bytes": 500,
    "ours_step_bytes": 200,
    "ours_over_plain": 0.7,
    "ours_step_over_plain_step": 0.4,
}
