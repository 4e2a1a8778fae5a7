"""Tail averaging: which rounds count, and what is released."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Arrays, Manifest
from common.errors import StudyError
from common.study import Study
from common.study_file import load_study, override
from common.tail_average import TailAverage, averaged_rounds

DEMO = load_study("demo")


def _study(part: float, rounds: int) -> Study:
    return override(DEMO, strategy__tail_average=part, training__rounds=rounds)


def _model(values: list[float], mean: float = 1 / 3) -> Arrays:
    return Arrays.pack({"a": np.array(values[:1]), "mean": np.array([mean]), "b": np.array(values)})


def _parameters(model: Arrays) -> Manifest:
    return tuple(block for block in model.manifest if block.name != "mean")


def _released(study: Study, models: list[Arrays]) -> Arrays:
    average = TailAverage.of(study, _parameters(models[0]))
    tail = average.start()
    for number, model in enumerate(models, start=1):
        tail = average.add(tail, model, round_number=number)
    return average.released(tail, models[-1])


@given(st.data(), st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_the_mean_is_of_the_last_rounds_alone(
    data: st.DataObject, rounds: int, part: float
) -> None:
    numbers = st.floats(-1e6, 1e6, width=32)
    values = data.draw(
        st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=rounds, max_size=rounds)
    )
    study = _study(part, rounds)
    found = _released(study, [_model(pair) for pair in values]).unpack()
    last = values[-averaged_rounds(study) or -1 :]
    expected = np.mean(last, axis=0)
    assert found["b"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found["a"] == pytest.approx(expected[:1], rel=1e-6, abs=1e-6)
    assert found["mean"] == np.float32(1 / 3)


@pytest.mark.parametrize(
    ("part", "rounds", "averaged"),
    [(0.0, 60, 0), (0.5, 60, 30), (0.25, 60, 15), (0.5, 1, 0), (0.5, 3, 2), (0.01, 60, 0)],
)
def test_a_part_of_the_rounds_is_averaged_and_never_one_alone(
    part: float, rounds: int, averaged: int
) -> None:
    assert averaged_rounds(_study(part, rounds)) == averaged


def test_without_averaging_the_last_model_is_released_bit_for_bit() -> None:
    models = [_model([1.0, 2.0]), _model([-0.0, 5.0])]
    assert _released(_study(0.0, 2), models) == models[-1]


def test_a_study_without_averaging_has_the_hash_that_it_had_before_there_was_any() -> None:
    assert "tail_average" not in DEMO.model_dump()["strategy"]
    assert _study(0.0, DEMO.training.rounds) == DEMO
    assert _study(0.5, DEMO.training.rounds) != DEMO


def test_what_stays_at_home_is_not_averaged() -> None:
    with pytest.raises(StudyError, match=r"expected no personal\.local_blocks"):
        override(DEMO, strategy__tail_average=0.5, personal__local_blocks=["heads.*"])
