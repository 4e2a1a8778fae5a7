"""Integrated gradients of our own: worked by hand, and against captum's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.attributions import attributions
from client.explain.attributions import integrator_of_captum, judge_of
from client.integrated_gradients import integrate
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, study_of
from tests.unit.encoder_cases import CASES
from tests.unit.encoder_cases import patients_of as patients_of_case
from tests.unit.explain_cases import cohort_of, model_of, subject_of


def test_of_a_polynomial_it_is_the_one_worked_by_hand() -> None:
    # f = x y² from (0, 1) to (2, 3): dx · ∫ y² = 2 · ∫ (1 + 2t)² = 2 · 13/3 = 26/3, and
    # dy · ∫ 2 x y = 2 · ∫ 2 · 2t (1 + 2t) = 2 · (4/2 + 8/3) = 28/3
    # 26/3 + 28/3 = 18 = f(2, 3) - f(0, 1).
    values = (torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    starts = (torch.tensor([[0.0]]), torch.tensor([[1.0]]))

    def score(x: Tensor, y: Tensor, times: Tensor) -> Tensor:
        return times * (x * y**2)[:, 0]

    fixed = (torch.tensor([1.0]),)
    found = integrate(score, values, starts, fixed, num_steps=8, num_rows=3)
    assert [float(part) for part in found] == pytest.approx([26 / 3, 28 / 3])
    assert all(part.dtype == torch.float64 for part in found)


def test_what_is_at_its_start_gets_exactly_nothing_and_parameters_keep_their_gradients() -> None:
    layer = nn.Linear(3, 1)
    layer.weight.grad = torch.ones(1, 3)
    values = (torch.tensor([[1.0, 2.0, 0.1]]),)
    starts = (torch.tensor([[1.0, 0.0, 0.1]]),)
    (found,) = integrate(lambda x: layer(x)[:, 0], values, starts, (), num_steps=4, num_rows=4)
    assert found[0, 0] == found[0, 2] == 0
    assert found[0, 1] != 0
    assert torch.equal(layer.weight.grad, torch.ones(1, 3))
    assert layer.bias.grad is None


@pytest.mark.parametrize("case", ["tabular", "markers-mlp", "notes-bag", "notes-pretrained"])
def test_our_attributions_are_those_of_captum(case: str) -> None:
    table = study_of().model_dump(mode="json")
    del table["granularities"]["labs"], table["granularities"]["lifestyle"]
    known = Study.model_validate(table)
    table["granularities"]["seen"] = CASES[case].model_dump(mode="json")
    study = Study.model_validate(table)
    cohort = cohort_of(known, 5, seed=3)
    seen = {key: value.numpy() for key, value in patients_of_case(CASES[case], 5).items()}
    cohort = replace(cohort, arrays={**cohort.arrays, "seen": seen})
    subject = subject_of(study, train=cohort, test=cohort)
    _assert_equal(subject, "event", num_patients=2)


@pytest.mark.parametrize("outcomes", [MORE_OUTCOMES, MULTICLASS], ids=["several", "multiclass"])
def test_our_attributions_are_those_of_captum_for_every_kind_of_outcome(outcomes) -> None:
    study = study_of(outcomes=outcomes)
    subject = subject_of(study, model=model_of(study, scale=0.1))
    for name in outcomes:
        _assert_equal(subject, name, num_patients=12)


def _assert_equal(subject, outcome: str, *, num_patients: int) -> None:
    index = np.arange(num_patients)
    judge = judge_of(subject)
    ours = attributions(judge, outcome, index)
    theirs = attributions(judge, outcome, index, integrator_of_captum())
    assert ours.features == theirs.features
    assert ours.num_steps == theirs.num_steps
    size = np.abs(theirs.value_BF).max()
    assert size > 0
    np.testing.assert_allclose(ours.value_BF, theirs.value_BF, atol=2e-5 * size)
    assert ((ours.value_BF == 0) == (theirs.value_BF == 0)).all()
