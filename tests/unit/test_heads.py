"""Heads: losses per patient and predictions by kind of outcome, by hand and against others."""

from math import log, log1p

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from common.models.heads import ClassHead, CoxHead, HazardHead, Head, RegressionHead, build_head
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome, SurvivalOutcome

BINARY = ClassOutcome(column="y", kind="binary", classes=("no", "yes"))
MULTICLASS = ClassOutcome(column="y", kind="multiclass", classes=("a", "b", "c"))
STAY = RegressionOutcome(kind="regression", column="y", unit="days", range=(0, 20))
COST = STAY.model_copy(update={"range": (0, 999), "scale": "log"})
DEATH = SurvivalOutcome(
    kind="survival", time_column="t", event_column="e", unit="days", cut_points=(10, 20, 40)
)
FREE = DEATH.model_copy(update={"proportional": False})
COX = DEATH.model_copy(update={"loss": "cox"})
EVERY = [BINARY, MULTICLASS, STAY, COST, DEATH, FREE, COX]
IDS = ["binary", "multiclass", "linear", "log", "proportional", "free", "cox"]

every = pytest.mark.parametrize("outcome", EVERY, ids=IDS)


def head_of(outcome: AnyOutcome, width: int = 3) -> Head:
    torch.manual_seed(0)
    return build_head(outcome, width)


def classes(*label: int) -> dict[str, Tensor]:
    return {"known_B": torch.ones(len(label), dtype=torch.bool), "label_B": torch.tensor(label)}


def values(*value: float) -> dict[str, Tensor]:
    return {"known_B": torch.ones(len(value), dtype=torch.bool), "value_B": torch.tensor(value)}


def times(*pair: tuple[float, int]) -> dict[str, Tensor]:
    return {
        "known_B": torch.ones(len(pair), dtype=torch.bool),
        "time_B": torch.tensor([float(time) for time, _ in pair]),
        "event_B": torch.tensor([bool(event) for _, event in pair]),
    }


def some(outcome: AnyOutcome) -> dict[str, Tensor]:
    """The outcomes of four patients."""
    if isinstance(outcome, ClassOutcome):
        return classes(0, 1, 1, 0)
    if isinstance(outcome, RegressionOutcome):
        return values(0.0, 3.5, 20.0, 7.25)
    return times((5, 1), (15, 0), (40, 1), (90, 0))


@pytest.mark.parametrize(
    ("outcome", "kind", "num"),
    [
        (BINARY, ClassHead, 1),
        (MULTICLASS, ClassHead, 3),
        (STAY, RegressionHead, 1),
        (DEATH, HazardHead, 3),
        (COX, CoxHead, 1),
    ],
    ids=["binary", "multiclass", "regression", "survival", "cox"],
)
def test_every_kind_has_its_head_and_as_many_logits_as_it_needs(
    outcome: AnyOutcome, kind: type[Head], num: int
) -> None:
    head = head_of(outcome)
    assert type(head) is kind
    assert head.num_logits == num
    assert head(torch.zeros(4, 3)).shape == (4, num)
    assert head.is_separable == (kind is not CoxHead)


# Classes.


def test_binary_loss_and_probability_worked_by_hand() -> None:
    # A logit of log 3 is a probability of 3/4.
    head, logits = head_of(BINARY), torch.tensor([[log(3.0)], [log(3.0)], [0.0]])
    loss_B = head.loss_per_patient(logits, classes(1, 0, 1))
    torch.testing.assert_close(loss_B, torch.tensor([log(4 / 3), log(4.0), log(2.0)]))
    expected = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(head.predictions(logits), expected)


def test_multiclass_loss_and_probability_worked_by_hand() -> None:
    # Odds of 1 : 2 : 5.
    head, logits = head_of(MULTICLASS), torch.tensor([[0.0, log(2.0), log(5.0)]] * 2)
    loss_B = head.loss_per_patient(logits, classes(0, 2))
    torch.testing.assert_close(loss_B, torch.tensor([log(8.0), log(8 / 5)]))
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8]] * 2, dtype=torch.float64)
    torch.testing.assert_close(head.predictions(logits), expected)


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
def test_the_mean_loss_is_scikit_learns(outcome: ClassOutcome) -> None:
    head, generator = head_of(outcome), torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, head.num_logits, generator=generator, dtype=torch.float64)
    labels = classes(*(i % len(outcome.classes) for i in range(40)))
    expected = log_loss(labels["label_B"].numpy(), head.predictions(logits).numpy())
    assert head.loss_per_patient(logits, labels).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
@pytest.mark.parametrize("size", [-1e4, -1.0, 0.0, 1e4])
def test_extreme_logits_stay_finite_and_probabilities_add_to_1(
    outcome: ClassOutcome, size: float
) -> None:
    head = head_of(outcome)
    logits = torch.zeros(2, head.num_logits)
    logits[:, -1] = size
    scores_BC = head.predictions(logits)
    assert scores_BC.dtype == torch.float64
    np.testing.assert_allclose(scores_BC.sum(dim=1), 1.0, rtol=1e-15)
    assert head.loss_per_patient(logits, classes(0, 1)).isfinite().all()


def test_the_focal_loss_worked_by_hand() -> None:
    # p = 3/4 of the true class, then 1/4; γ = 2: (1/4)² log(4/3) and (3/4)² log 4.
    head = head_of(BINARY.model_copy(update={"focal_gamma": 2.0}))
    loss_B = head.loss_per_patient(torch.tensor([[log(3.0)]] * 2), classes(1, 0))
    torch.testing.assert_close(loss_B, torch.tensor([log(4 / 3) / 16, 9 * log(4) / 16]))


@pytest.mark.parametrize("outcome", [BINARY, MULTICLASS])
def test_a_focal_loss_of_gamma_0_is_the_cross_entropy_and_certainty_has_a_finite_gradient(
    outcome: ClassOutcome,
) -> None:
    focal = head_of(outcome.model_copy(update={"focal_gamma": 0.5}))
    logits = torch.zeros(2, focal.num_logits)
    logits[:, -1] = 1e4
    logits.requires_grad_(True)
    focal.loss_per_patient(logits, classes(*[len(outcome.classes) - 1] * 2)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_class_weights_multiply_the_loss_of_their_class() -> None:
    weighted = head_of(MULTICLASS.model_copy(update={"class_weights": (1.0, 2.0, 0.5)}))
    logits, labels = torch.tensor([[0.3, -0.2, 1.0]] * 3), classes(0, 1, 2)
    plain_B = head_of(MULTICLASS).loss_per_patient(logits, labels)
    expected_B = plain_B * torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(weighted.loss_per_patient(logits, labels), expected_B)


# Quantities.


def test_a_squared_error_worked_by_hand() -> None:
    # The range [0, 20] is [-1, 1]: 15 days are .5, the logit is 0; 0 days are -1.
    head, logits = head_of(STAY), torch.zeros(2, 1)
    torch.testing.assert_close(
        head.loss_per_patient(logits, values(15.0, 0.0)), torch.tensor([0.25, 1.0])
    )
    assert head.predictions(logits).tolist() == [[10.0], [10.0]]


def test_a_squared_error_on_the_scale_of_logarithms_worked_by_hand() -> None:
    # log(1 + [0, 999]) is [0, log 1000]; its middle is log(1000) / 2, so 10^1.5 - 1.
    head, logits = head_of(COST), torch.zeros(1, 1)
    assert head.predictions(logits).item() == pytest.approx(10**1.5 - 1)
    middle = log(1000) / 2
    expected = ((log1p(99.0) - middle) / middle) ** 2
    assert head.loss_per_patient(logits, values(99.0)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("outcome", [STAY, COST], ids=["linear", "log"])
@pytest.mark.parametrize("size", [-1e4, -1.0, 0.5, 1e4])
def test_predicted_quantities_lie_in_their_range_and_a_loss_of_0_is_the_value_itself(
    outcome: RegressionOutcome, size: float
) -> None:
    head = head_of(outcome)
    predicted = head.predictions(torch.tensor([[size]]))
    low, high = outcome.range
    assert predicted.dtype == torch.float64
    assert low <= predicted.item() <= high
    if abs(size) <= 1:
        loss_B = head.loss_per_patient(torch.tensor([[size]]), values(predicted.item()))
        assert loss_B.item() == pytest.approx(0.0, abs=1e-9)


# Times.


def test_the_likelihood_of_discrete_time_worked_by_hand() -> None:
    # Hazards 1/2, 1/4, 1/5 in (0, 10], (10, 20], (20, 40].
    logits = torch.tensor([[0.0, -log(3.0), -log(4.0)]])
    head = head_of(DEATH)
    expected = {
        (7, 1): -log(1 / 2),  # the event in the first interval
        (10, 1): -log(1 / 2),  # an interval holds its end
        (12, 1): -log(1 / 2 * 1 / 4),  # survived the first, the event in the second
        (16, 0): -log(1 / 2 * 3 / 4),  # observed beyond the middle of the second
        (14, 0): -log(1 / 2),  # not so far
        (3, 0): 0.0,  # observed through no half of an interval
        (99, 1): -log(1 / 2 * 3 / 4 * 4 / 5),  # an event after the last cut point: survived all
        (0, 1): -log(1 / 2),
    }
    for pair, loss in expected.items():
        found = head.loss_per_patient(logits, times(pair)).item()
        assert found == pytest.approx(loss, abs=1e-6), pair
    curve = torch.tensor([[1 / 2, 3 / 8, 3 / 10]], dtype=torch.float64)
    torch.testing.assert_close(head.predictions(logits), curve, rtol=1e-6, atol=0)


def test_a_proportional_head_has_one_risk_beside_a_baseline_of_each_interval() -> None:
    proportional, free = head_of(DEATH), head_of(FREE)
    assert [p.numel() for p in proportional.parameters()] == [3, 3]
    assert [p.numel() for p in free.parameters()] == [9, 3]
    fused_BD = torch.randn(5, 3)
    differences = proportional(fused_BD) - proportional(torch.zeros(5, 3))
    torch.testing.assert_close(differences, differences[:, :1].expand(5, 3))


def test_a_new_head_of_times_gives_everybody_a_small_hazard() -> None:
    survival_BK = head_of(DEATH).predictions(head_of(DEATH)(torch.zeros(1, 3)))
    # The sigmoid of -3 is .0474.
    expected = (1 - 0.04742587) ** np.arange(1, 4)
    np.testing.assert_allclose(survival_BK.detach()[0], expected, rtol=1e-6)


def test_the_partial_likelihood_worked_by_hand() -> None:
    # Events at 1 and 3, a censoring at 2; relative risks 2, 3, 1. The first is one of all (2/6),
    # the last is alone at risk (1/1). Times B / events = 3 / 2.
    logits = torch.tensor([[2.0], [3.0], [1.0]]).log()
    loss_B = head_of(COX).loss_per_patient(logits, times((1, 1), (2, 0), (3, 1)))
    torch.testing.assert_close(loss_B, torch.tensor([1.5 * log(3.0), 0.0, 0.0]))


def test_who_is_not_known_is_in_nobodys_risk_set() -> None:
    head, labels = head_of(COX), times((1, 1), (2, 0), (3, 1), (9, 0))
    logits = torch.tensor([[2.0], [3.0], [1.0], [50.0]]).log()
    labels["known_B"] = torch.tensor([True, True, True, False])
    loss_B = head.loss_per_patient(logits, labels)
    # As above, times 4 / 2 for four patients in the batch.
    torch.testing.assert_close(loss_B, torch.tensor([2.0 * log(3.0), 0.0, 0.0, 0.0]))


def test_predictions_of_the_cox_model_fall_with_the_risk_and_lie_in_0_to_1() -> None:
    predicted = head_of(COX).predictions(torch.linspace(-5, 5, 11)[:, None])[:, 0]
    assert (predicted.diff() < 0).all()
    assert ((predicted > 0) & (predicted < 1)).all()


# Every head.


@every
def test_a_patient_whose_outcome_is_not_known_has_a_loss_of_exactly_0_whatever_stands_there(
    outcome: AnyOutcome,
) -> None:
    head, labels = head_of(outcome), some(outcome)
    labels["known_B"] = torch.tensor([True, True, False, False])
    logits = torch.linspace(-2, 2, 4 * head.num_logits).reshape(4, -1)
    losses = []
    for number in (0.0, 1e9, float("nan")):
        junk = {
            key: torch.where(
                labels["known_B"],
                value,
                value.new_tensor(number) if value.is_floating_point() else value.new_tensor(-1),
            )
            for key, value in labels.items()
            if key != "known_B"
        }
        losses.append(head.loss_per_patient(logits, labels | junk))
    for loss_B in losses:
        assert loss_B.shape == (4,)
        assert torch.equal(loss_B, losses[0])
        assert loss_B[2:].tolist() == [0.0, 0.0]


@every
def test_the_loss_of_a_patient_does_not_depend_on_the_others_where_it_is_separable(
    outcome: AnyOutcome,
) -> None:
    head, labels = head_of(outcome), some(outcome)
    logits = torch.linspace(-2, 2, 4 * head.num_logits).reshape(4, -1)
    whole_B = head.loss_per_patient(logits, labels)
    alone_B = torch.cat(
        [
            head.loss_per_patient(
                logits[b : b + 1], {key: value[b : b + 1] for key, value in labels.items()}
            )
            for b in range(4)
        ]
    )
    assert torch.allclose(whole_B, alone_B) == head.is_separable


@every
def test_a_head_trains_towards_its_outcomes(outcome: AnyOutcome) -> None:
    head, labels = head_of(outcome, width=4), some(outcome)
    fused_BD = torch.eye(4)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = head.loss_per_patient(head(fused_BD), labels).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])


def test_the_scale_of_logarithms_is_undone_exactly() -> None:
    head = head_of(COST)
    target = (log1p(31.0) - log(1000) / 2) / (log(1000) / 2)
    assert head.predictions(torch.tensor([[target]])).item() == pytest.approx(31.0, rel=1e-5)
