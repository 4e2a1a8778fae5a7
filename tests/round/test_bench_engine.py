"""The benchmark of the engine: what it reports, and that it refuses to compare different work."""

from pathlib import Path

import pytest

from common.errors import RunError
from simulations.bench import engine
from simulations.bench.engine import Case, per_round

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
