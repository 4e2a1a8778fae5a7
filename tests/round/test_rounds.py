"""Whole rounds: reproducible, weighted block by block, and indifferent to any order."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message

from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from common.arrays import Arrays, slices_of
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import PatientModel, block_owner, state_of
from common.study import Study
from common.study_file import override
from simulations.engine import InProcessGrid
from simulations.simulate import Simulation, simulate


def recorded(into: dict[int, Reply]):
    """A site that is honest, and whose training replies are kept by round."""

    def twist(task: Task, answer) -> Reply:
        reply = answer()
        if task.kind is TaskKind.TRAIN:
            into[task.round] = reply
        return reply

    return twist


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in results.items()
        if key not in ("run_id", "started_at", "ended_at", "seconds")
    }


# Reproducible.


def test_the_same_seed_twice_gives_the_same_bytes_and_results(federate, honest) -> None:
    one, two = honest, federate()
    assert one.model_bytes == two.model_bytes
    assert without_times(one.results) == without_times(two.results)
    assert one.results["run_id"] != two.results["run_id"]


def test_another_seed_gives_another_model(federate, study, honest) -> None:
    other = federate(override(study, training__seed=1))
    assert honest.model_bytes != other.model_bytes


class LastFirst(InProcessGrid):
    """Replies come in the opposite order."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in sorted(message_ids, key=int, reverse=True):
            replies = super().pull_messages([message_id])
            if replies:
                return replies
        return []


@pytest.mark.parametrize(
    "grid",
    [LastFirst, lambda sites: InProcessGrid(dict(reversed(sites.items())))],
    ids=["replies", "sites"],
)
@pytest.mark.parametrize("method", ["public_range", "federated"])
def test_the_order_of_sites_and_of_replies_changes_nothing(
    federate, study, grid, method: str
) -> None:
    study = override(study, normalisation__method=method)
    assert federate(study, grid=grid).model_bytes == federate(study).model_bytes


def test_the_names_of_the_folders_do_not_matter(
    federate, honest, hospitals: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    for old, new in zip("abcde", "vwxyz", strict=True):
        shutil.copytree(hospitals / old, renamed / new)
    assert federate(sites=renamed).model_bytes == honest.model_bytes


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad"])
@pytest.mark.parametrize("combine", ["mean", "median", "trimmed_mean"])
def test_every_strategy_runs_to_a_finite_model(federate, study, name: str, combine: str) -> None:
    study = override(study, strategy__name=name, strategy__combine=combine, training__rounds=2)
    run = federate(study)
    assert run.results["status"] == "finished"
    assert [r["round"] for r in run.results["rounds"]] == [0, 1, 2]
    initial = state_of(PatientModel(study)).unpack()
    assert all(np.isfinite(values).all() for values in run.model.values())
    assert any((run.model[key] != initial[key]).any() for key in initial)


def test_simulate_gives_the_same_model_and_knows_the_exact_metrics(
    study, honest, hospitals: Path, tmp_path: Path
) -> None:
    report = simulate(Simulation(study=study, sites=hospitals, out=tmp_path / "simulated"))
    assert report.is_file()
    folder = tmp_path / "simulated"
    assert (folder / "model.safetensors").read_bytes() == honest.model_bytes
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for line in results["rounds"]:
        pooled, oracle = line["pooled"]["event"], line["oracle"]["event"]
        assert oracle["num_patients"] == pooled["num_patients"]
        for name in ("accuracy", "loss", "brier", "f1", "calibration_error"):
            assert pooled[name] == pytest.approx(oracle[name], abs=1e-9)
        bound = pooled["auroc_error_bound"] + 1e-9
        assert abs(pooled["auroc"] - oracle["auroc"]) <= bound


# Aggregated block by block.


def test_each_block_is_averaged_over_the_sites_that_trained_it_by_their_patients(
    federate, study
) -> None:
    replies: dict[str, dict[int, Reply]] = {name: {} for name in "abcde"}
    twists = {name: recorded(into) for name, into in replies.items()}
    run = federate(override(study, training__rounds=1), twists=twists)
    updates = {name: rounds[0] for name, rounds in replies.items()}
    assert [updates[name].counts["lifestyle"] for name in "de"] == [0, 0]
    assert len({updates[name].counts["lifestyle"] / updates[name].counts["labs"] for name in "abc"})
    initial = state_of(PatientModel(study)).unpack()
    manifest = updates["a"].arrays.manifest
    for block, place in slices_of(manifest):
        owner = block_owner(block.name)
        trained = [u for u in updates.values() if u.counts[owner] > 0]
        assert len(trained) == (3 if owner == "lifestyle" else 5)
        weights = np.array([u.counts[owner] for u in trained], dtype=np.float64)
        mean = np.average([u.arrays.flat[place] for u in trained], axis=0, weights=weights)
        expected = initial[block.name].reshape(-1) + mean
        assert np.allclose(run.model[block.name].reshape(-1), expected, atol=1e-6), block.name
        # Weighing by all patients instead would be noticed where some lack the granularity.
        if owner == "lifestyle":
            others = np.array([u.counts["patients"] for u in trained], dtype=np.float64)
            assert np.abs(others / others.sum() - weights / weights.sum()).max() > 0.01


def test_equal_weights_count_every_site_alike(federate, study) -> None:
    replies: dict[str, dict[int, Reply]] = {name: {} for name in "ab"}
    twists = {name: recorded(into) for name, into in replies.items()}
    study = override(study, training__rounds=1, strategy__weights="equal")
    run = federate(study, twists=twists, left_out="cde")
    initial = state_of(PatientModel(study)).unpack()
    mean = (replies["a"][0].arrays.flat.astype(np.float64) + replies["b"][0].arrays.flat) / 2
    for block, place in slices_of(replies["a"][0].arrays.manifest):
        expected = initial[block.name].reshape(-1) + mean[place]
        assert np.allclose(run.model[block.name].reshape(-1), expected, atol=1e-6)


def test_a_site_that_lacks_a_granularity_cannot_move_its_encoder_by_one_bit(
    federate, honest
) -> None:
    def scribble(task: Task, answer) -> Reply:
        reply = answer()
        if task.kind is not TaskKind.TRAIN:
            return reply
        flat = reply.arrays.flat.copy()
        for block, place in slices_of(reply.arrays.manifest):
            if block_owner(block.name) == "lifestyle":
                flat[place] = 10.0
        arrays = Arrays(manifest=reply.arrays.manifest, flat=flat)
        return Reply(**{**vars(reply), "arrays": arrays})

    assert federate(twists={"d": scribble}).model_bytes == honest.model_bytes
    # The same from a site that has the granularity does move it.
    assert federate(twists={"a": scribble}).model_bytes != honest.model_bytes


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedyogi", "fedadagrad"])
def test_an_encoder_that_no_site_trains_stays_as_it_was_bit_for_bit(
    federate, study, name: str
) -> None:
    # Weight decay moves the encoder at the sites; it must not reach the global model.
    study = override(
        study, strategy__name=name, training__optimizer="adamw", training__weight_decay=0.5
    )
    run = federate(study, left_out="abc")
    initial = state_of(PatientModel(study)).unpack()
    for key, values in run.model.items():
        is_untrained = key.startswith("encoders.lifestyle")
        is_buffer = key.endswith((".location", ".scale"))
        assert (values.tobytes() == initial[key].tobytes()) == (is_untrained or is_buffer), key


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedyogi", "fedadagrad"])
def test_an_encoder_that_no_site_trains_any_more_is_not_moved_by_its_momentum(
    federate, study, name: str
) -> None:
    study = override(study, strategy__name=name, strategy__server_learning_rate=0.1)

    def gone_after_the_first_round(task: Task, answer) -> Reply:
        if task.round > 0:
            raise RuntimeError("gone")
        return answer()

    twists = dict.fromkeys("abc", gone_after_the_first_round)
    later = federate(study, twists=twists).model
    first = federate(override(study, training__rounds=1)).model
    for key, values in first.items():
        is_still = key.startswith("encoders.lifestyle") or key.endswith((".location", ".scale"))
        assert (later[key].tobytes() == values.tobytes()) == is_still, key


@pytest.mark.parametrize(("fewest", "moves"), [(2, False), (1, True)])
def test_the_encoder_of_a_granularity_that_one_site_has_is_not_published(
    federate, study, fewest: int, moves: bool
) -> None:
    study = override(study, strategy__min_sites_per_block=fewest)
    run = federate(study, left_out="bc")
    initial = state_of(PatientModel(study)).unpack()
    keys = [k for k in initial if k.startswith("encoders.lifestyle") and k.endswith("weight")]
    assert keys
    assert all((run.model[k].tobytes() != initial[k].tobytes()) == moves for k in keys)


def test_all_sites_of_a_federation_start_from_the_normalisation_of_all_of_them(
    federate, study, hospitals: Path
) -> None:
    study = override(study, normalisation__method="federated")
    ages = []
    for name in "abcde":
        config = load_site_config(hospitals / name)
        labs = usable_cohort(*read_cohort(config, study)).train.arrays["labs"]
        ages.append(labs["numeric_BF"][labs["observed_BF"][:, 0], 0].astype(np.float64))
    pooled = np.concatenate(ages)
    model = federate(study).model
    # Where few patients lack a value, mean and deviation leave to a 64th of the deviation.
    step = pooled.std() / 64
    assert model["encoders.labs.location"].tolist() == pytest.approx([pooled.mean()], abs=step)
    assert model["encoders.labs.scale"].tolist() == pytest.approx([pooled.std()], abs=2 * step)


# Nothing passes by reference.


def test_what_a_site_does_to_its_arrays_later_does_not_reach_the_server(federate, honest) -> None:
    kept: list[np.ndarray] = []

    def vandal(task: Task, answer) -> Reply:
        for buffer in kept:
            buffer[:] = np.nan
        reply = answer()
        if task.kind is not TaskKind.TRAIN:
            return reply
        own = reply.arrays.flat.copy()
        kept.append(own)
        arrays = Arrays(manifest=reply.arrays.manifest, flat=own)
        assert task.arrays is not None
        assert not task.arrays.flat.flags.writeable
        return Reply(**{**vars(reply), "arrays": arrays})

    assert federate(twists={"a": vandal}).model_bytes == honest.model_bytes
    assert len(kept) == 3


# Inner validation.


def with_split(hospitals: Path, folder: Path, *, spoilt: bool) -> Path:
    """Copies of the hospitals where every fourth patient is held out, and perhaps spoilt."""
    for name in "abc":
        shutil.copytree(hospitals / name, folder / name)
        table = pd.read_csv(folder / name / "patients.csv", dtype=str)
        is_test = np.arange(len(table)) % 4 == 0
        table["split"] = np.where(is_test, "test", "train")
        if spoilt:
            table.loc[is_test, "age_years"] = "18"
            table.loc[is_test, "steps_per_day"] = "40000"
            table.loc[is_test, "event"] = "yes"
        table.to_csv(folder / name / "patients.csv", index=False)
    return folder


@pytest.mark.parametrize("method", ["public_range", "federated"])
def test_choosing_on_a_validation_fold_sees_nothing_of_the_held_out_patients(
    federate, study, hospitals: Path, tmp_path: Path, method: str
) -> None:
    clean = with_split(hospitals, tmp_path / "clean", spoilt=False)
    spoilt = with_split(hospitals, tmp_path / "spoilt", spoilt=True)
    study = override(study, normalisation__method=method)
    inner = override(study, evaluation__validation_fold=0)
    one, two = federate(inner, sites=clean), federate(inner, sites=spoilt)
    assert one.model_bytes == two.model_bytes
    assert without_times(one.results) == without_times(two.results)
    # Without the fold the held-out patients are those who are evaluated, and would be noticed.
    one, two = federate(study, sites=clean), federate(study, sites=spoilt)
    assert one.model_bytes == two.model_bytes
    assert one.results["rounds"] != two.results["rounds"]


# Outcomes that some do not know, and statistics that some do not send.


def without_some(hospitals: Path, folder: Path) -> Path:
    """Copies of three hospitals that also count days of stay; some have it of few patients."""
    for name, every in (("a", 1), ("b", 2), ("c", 3)):
        shutil.copytree(hospitals / name, folder / name)
        table = pd.read_csv(folder / name / "patients.csv", dtype=str)
        number = np.arange(len(table))
        table["stay_days"] = np.where(number % every == 0, (number % 20).astype(str), "")
        table.to_csv(folder / name / "patients.csv", index=False)
    return folder


def test_the_head_of_an_outcome_is_averaged_by_the_patients_of_whom_it_is_known(
    federate, study, hospitals: Path, tmp_path: Path
) -> None:
    table = study.model_dump(mode="json", exclude_none=True)
    table["outcomes"]["stay"] = {
        "kind": "regression",
        "column": "stay_days",
        "unit": "days",
        "range": [0, 20],
    }
    two = override(Study.model_validate(table), training__rounds=1)
    replies: dict[str, dict[int, Reply]] = {name: {} for name in "abc"}
    twists = {name: recorded(into) for name, into in replies.items()}
    run = federate(two, sites=without_some(hospitals, tmp_path / "sites"), twists=twists)
    updates = [rounds[0] for rounds in replies.values()]
    assert len({u.counts["stay"] / u.counts["patients"] for u in updates}) == 3
    assert all(u.counts["event"] == u.counts["patients"] for u in updates)
    initial = state_of(PatientModel(two)).unpack()
    for block, place in slices_of(updates[0].arrays.manifest):
        weights = [u.counts[block_owner(block.name)] for u in updates]
        mean = np.average([u.arrays.flat[place] for u in updates], axis=0, weights=weights)
        expected = initial[block.name].reshape(-1) + mean
        assert np.allclose(run.model[block.name].reshape(-1), expected, atol=1e-6), block.name


def test_a_policy_that_withholds_a_statistic_costs_its_metrics_and_nothing_else(
    federate, honest, hospitals: Path, tmp_path: Path
) -> None:
    sites = tmp_path / "sites"
    shutil.copytree(hospitals, sites)
    declared = ["num_patients", "loss_sum", "brier_sum", "positives_by_score"]
    declared += ["event.negatives_by_score", "calibration_count", "calibration_score_sum"]
    path = sites / "b" / "site.toml"
    text = path.read_text().replace(
        "[policy]\n", f"[policy]\nmetrics = {json.dumps([*declared, 'calibration_outcome_sum'])}\n"
    )
    path.write_text(text)
    run = federate(sites=sites)
    assert run.model_bytes == honest.model_bytes
    assert run.results["absent"] == []
    for ours, whole in zip(run.results["rounds"], honest.results["rounds"], strict=True):
        lost = {"accuracy": None, "f1": None}
        assert ours["sites"]["b"]["event"] == whole["sites"]["b"]["event"] | lost
        assert ours["pooled"]["event"] == whole["pooled"]["event"] | lost
        assert ours["sites"]["a"] == whole["sites"]["a"]
        assert whole["pooled"]["event"]["accuracy"] is not None
