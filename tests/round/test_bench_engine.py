"""The benchmark of the engine: what it reports, and that it refuses to compare different work."""

from pathlib import Path

import pytest

from common.errors import RunError
from common.study_file import override, study_from_toml, study_to_toml
from simulations.bench import engine
from simulations.bench.engine import Case, bench_study, per_round
from simulations.cohort import SiteEffects, write_cohort
from tests.round.tiny import TINY_STUDY

CASE = Case(num_sites=2, local_steps=1, rounds=2, repetitions=1)


def test_a_case_reports_both_loops_with_and_without_waiting_for_the_disk(tmp_path: Path) -> None:
    cases = per_round(CASE, tmp_path)
    assert [case["durable"] for case in cases] == [False, True]
    for case in cases:
        assert (case["sites"], case["local_steps"], case["num_rounds_measured"]) == (2, 1, 1)
        assert case["parameters"] > 1000
        ours, plain = case["ours_seconds_per_round"], case["plain_seconds_per_round"]
        assert case["ours_over_plain_per_round"] == pytest.approx(ours / plain)
        assert case["overhead_ms_per_message"] == pytest.approx((ours - plain) / 2 * 1e3)


def test_a_study_is_measured_on_its_own_hospitals_on_both_clocks(tmp_path: Path) -> None:
    study = override(study_from_toml(TINY_STUDY), training__local_epochs=1)
    effects = [SiteEffects(name=f"hospital-{i}", num_patients=40) for i in range(3)]
    write_cohort(study, effects, tmp_path / "sites", seed=0)
    (tmp_path / "study.toml").write_text(study_to_toml(study), encoding="utf-8")
    path = str(tmp_path / "study.toml")
    cases = bench_study(path, tmp_path / "sites", rounds=3, repetitions=1)["cases"]
    assert [(case["sites"], case["rounds"], case["num_rounds_measured"]) for case in cases] == (
        [(3, 3, 2)] * 2
    )
    assert all(case["ours_over_plain_processor_per_round"] > 0 for case in cases)
    assert all(case["plain_processor_seconds_per_round"] > 0 for case in cases)


def test_loops_that_train_different_models_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = iter(range(1000))
    monkeypatch.setattr("simulations.bench.plain_loop.seed_of", lambda *parts: next(seeds))
    with pytest.raises(RunError, match="Expected the model of the plain loop, bit for bit"):
        per_round(CASE, tmp_path)


def test_the_cases_have_the_sizes_that_are_promised() -> None:
    assert {case.num_sites for case in engine.FULL} == {4, 50, 200}
    assert {4, 8} <= {case.num_sites for case in engine.FULL_FLOWER}
