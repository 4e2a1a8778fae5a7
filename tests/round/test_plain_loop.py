"""The engine against another implementation of the same run: a plain loop without messages."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.errors import StudyError
from common.metrics.evaluation import statistics_of
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import load_study, override
from simulations.bench.plain_loop import plain_loop, read_sites
from simulations.cohort import varied_sites, write_cohort
from simulations.simulate import Simulation, simulate


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = load_study("demo")
    folder = tmp_path_factory.mktemp("sites")
    # The third of three lacks a granularity, so a block is averaged over two.
    write_cohort(study, varied_sites(study, num_sites=3, seed=5), folder, seed=5)
    return folder


def _study(**changes: object) -> Study:
    return override(load_study("demo"), training__rounds=2, training__seed=7, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy__name": "fedprox", "strategy__proximal_mu": 0.1},
        {"strategy__name": "fedadam", "strategy__server_learning_rate": 0.01},
        {"strategy__combine": "median", "normalisation__method": "public_range"},
        {"personal__ditto_lambda": 0.1},
        {"strategy__tail_average": 0.9},
    ],
    ids=["fedavg", "fedprox", "fedadam", "median", "ditto", "tail average"],
)
def test_the_engine_and_a_plain_loop_give_the_same_model_bit_for_bit(
    sites: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    study = _study(**changes)
    simulate(Simulation(study=study, sites=sites, out=tmp_path))
    plain = plain_loop(study, read_sites(study, sites))
    engine = load_file(tmp_path / "model.safetensors")
    assert set(engine) == set(plain.model.unpack())
    for name, values in plain.model.unpack().items():
        assert engine[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("part", [0.0, 0.9])
def test_the_engine_reports_the_metrics_of_a_plain_loop(
    sites: Path, tmp_path: Path, part: float
) -> None:
    study = _study(strategy__tail_average=part)
    simulate(Simulation(study=study, sites=sites, out=tmp_path))
    plain = plain_loop(study, read_sites(study, sites))
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert [r["round"] for r in rounds] == [0, 1, 2]
    for found, expected in zip(rounds, plain.evaluations, strict=True):
        for name, statistics in statistics_of(study).items():
            metrics = statistics.metrics_of(expected[name])
            assert found["pooled"][name] == pytest.approx(metrics, rel=1e-12)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_frozen_encoders_stay_in_the_plain_loop_and_the_rest_is_trained(
    sites: Path, strategy: str
) -> None:
    study = _study(strategy__name=strategy, model__frozen=["labs"])
    before = state_of(PatientModel(study)).unpack()
    after = plain_loop(study, read_sites(study, sites)).model.unpack()
    frozen = {n for n, _ in PatientModel(study).encoders["labs"].named_parameters()}
    for name, value in before.items():
        if name.removeprefix("encoders.labs.") in frozen:
            assert np.array_equal(after[name], value), name
    assert any(not np.array_equal(after[n], before[n]) for n in before if n.startswith("fusion."))


def test_the_plain_loop_keeps_nothing_at_a_site_and_says_so(sites: Path) -> None:
    study = _study(personal__local_blocks=["heads.*"])
    with pytest.raises(StudyError, match=r"without personal\.local_blocks"):
        plain_loop(study, read_sites(study, sites))


def test_a_site_that_is_left_out_is_not_read(sites: Path) -> None:
    study = _study()
    everybody = [site.name for site in read_sites(study, sites)]
    others = read_sites(study, sites, left_out=frozenset(everybody[:1]))
    assert [site.name for site in others] == everybody[1:]
