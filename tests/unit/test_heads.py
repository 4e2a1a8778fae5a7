"""Heads: losses per patient and probabilities, against scikit-learn and by hand."""

from math import log

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from common.models.heads import loss_per_patient, num_logits, probabilities
from common.study import Outcome

BINARY = Outcome(column="y", kind="binary", classes=("no", "yes"))
MULTICLASS = Outcome(column="y", kind="multiclass", classes=("a", "b", "c"))


@pytest.mark.parametrize(("outcome", "num"), [(BINARY, 1), (MULTICLASS, 3)])
def test_one_logit_is_enough_for_two_classes(outcome: Outcome, num: int) -> None:
    assert num_logits(outcome) == num


def test_binary_loss_and_probability_worked_by_hand() -> None:
    # A logit of log 3 is a probability of 3/4.
    logits = torch.tensor([[log(3.0)], [log(3.0)], [0.0]])
    loss_B = loss_per_patient(BINARY, logits, torch.tensor([1, 0, 1]))
    torch.testing.assert_close(loss_B, torch.tensor([log(4 / 3), log(4.0), log(2.0)]))
    scores_BC = probabilities(BINARY, logits)
    expected = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(scores_BC, expected)


def test_multiclass_loss_and_probability_worked_by_hand() -> None:
    # Odds of 1 : 2 : 5.
    logits = torch.tensor([[0.0, log(2.0), log(5.0)]] * 2)
    loss_B = loss_per_patient(MULTICLASS, logits, torch.tensor([0, 2]))
    torch.testing.assert_close(loss_B, torch.tensor([log(8.0), log(8 / 5)]))
    scores_BC = probabilities(MULTICLASS, logits)
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8]] * 2, dtype=torch.float64)
    torch.testing.assert_close(scores_BC, expected)


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
def test_the_mean_loss_is_scikit_learns(outcome: Outcome) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, num_logits(outcome), generator=generator, dtype=torch.float64)
    labels_B = torch.arange(40) % len(outcome.classes)
    expected = log_loss(labels_B.numpy(), probabilities(outcome, logits).numpy())
    assert loss_per_patient(outcome, logits, labels_B).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
@pytest.mark.parametrize("size", [-1e4, -1.0, 0.0, 1e4])
def test_extreme_logits_stay_finite_and_probabilities_add_to_1(
    outcome: Outcome, size: float
) -> None:
    logits = torch.zeros(2, num_logits(outcome))
    logits[:, -1] = size
    scores_BC = probabilities(outcome, logits)
    assert scores_BC.dtype == torch.float64
    np.testing.assert_allclose(scores_BC.sum(dim=1), 1.0, rtol=1e-15)
    assert loss_per_patient(outcome, logits, torch.tensor([0, 1])).isfinite().all()


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
def test_the_loss_of_a_patient_does_not_depend_on_the_others(outcome: Outcome) -> None:
    logits = torch.linspace(-2, 2, 4 * num_logits(outcome)).reshape(4, -1)
    labels_B = torch.tensor([0, 1, 1, 0])
    whole_B = loss_per_patient(outcome, logits, labels_B)
    assert whole_B.shape == (4,)
    for b in range(4):
        alone_B = loss_per_patient(outcome, logits[b : b + 1], labels_B[b : b + 1])
        torch.testing.assert_close(whole_B[b : b + 1], alone_B)
