"""Heads by kind of outcome: losses and predictions by hand, and what all of them guarantee."""

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import functional

from common.models.heads import ClassHead, CoxHead, HazardHead, Head, RegressionHead, build_head
from common.outcomes import AnyOutcome

WIDTH = 4
SURVIVAL = {
    "kind": "survival",
    "time_column": "t",
    "event_column": "e",
    "unit": "days",
    "cut_points": [10, 20, 40],
}
FIELDS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
    "multiclass": {"kind": "multiclass", "column": "y", "classes": ["a", "b", "c"]},
    "linear": {"kind": "regression", "column": "y", "unit": "days", "range": [-10, 30]},
    "log": {"kind": "regression", "column": "y", "unit": "€", "range": [0, 999], "scale": "log"},
    "hazard": SURVIVAL,
    "hazard by interval": SURVIVAL | {"proportional": False},
    "cox": SURVIVAL | {"loss": "cox"},
}
ALL = sorted(FIELDS)
SEPARABLE = [name for name in ALL if name != "cox"]


def head_of(name: str, **fields: object) -> Head:
    torch.manual_seed(0)
    outcome = TypeAdapter[AnyOutcome](AnyOutcome).validate_python({**FIELDS[name], **fields})
    return build_head(outcome, WIDTH)


def labels_of(name: str, num_patients: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uniform_B = torch.rand(num_patients, generator=generator)
    known_B = torch.ones(num_patients, dtype=torch.bool)
    if FIELDS[name]["kind"] in ("binary", "multiclass"):
        num_classes = len(FIELDS[name]["classes"])
        return {"known_B": known_B, "label_B": (uniform_B * num_classes).long()}
    if FIELDS[name]["kind"] == "regression":
        low, high = FIELDS[name]["range"]
        return {"known_B": known_B, "value_B": low + (high - low) * uniform_B}
    return {"known_B": known_B, "time_B": 50 * uniform_B, "event_B": uniform_B < 0.6}


def logits_of(head: Head, num_patients: int, seed: int = 0, size: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(num_patients, head.num_logits, generator=generator)


@pytest.mark.parametrize(
    ("name", "kind", "num_logits"),
    [
        ("binary", ClassHead, 1),
        ("multiclass", ClassHead, 3),
        ("linear", RegressionHead, 1),
        ("log", RegressionHead, 1),
        ("hazard", HazardHead, 3),
        ("hazard by interval", HazardHead, 3),
        ("cox", CoxHead, 1),
    ],
)
def test_each_kind_of_outcome_has_its_head_and_logits(
    name: str, kind: type[Head], num_logits: int
) -> None:
    head = head_of(name)
    assert type(head) is kind
    assert head.num_logits == num_logits
    assert head(torch.zeros(5, WIDTH)).shape == (5, num_logits)


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_outcome_has_a_loss_and_gradient_of_exactly_zero(name: str) -> None:
    head, labels = head_of(name), labels_of(name, 6)
    unknown_B = torch.tensor([False, True, False, True, True, False])
    rubbish = {"label_B": -1, "value_B": float("nan"), "time_B": float("nan"), "event_B": True}
    for key, value in labels.items():
        if key != "known_B":
            value[unknown_B] = torch.tensor(rubbish[key], dtype=value.dtype)
    logits_BW = logits_of(head, 6).requires_grad_()
    loss_B = head.loss_per_patient(logits_BW, labels | {"known_B": ~unknown_B})
    assert loss_B[unknown_B].tolist() == [0.0] * 3
    assert loss_B.isfinite().all()
    assert loss_B[~unknown_B].any()
    (gradient_BW,) = torch.autograd.grad(loss_B.sum(), logits_BW)
    assert not gradient_BW[unknown_B].any()
    assert gradient_BW.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_what_stands_for_an_unknown_outcome_changes_nothing(name: str) -> None:
    head, labels = head_of(name), labels_of(name, 6)
    known_B = torch.tensor([True, False, True, True, False, True])
    others = {key: torch.where(known_B, value, value.flip(0)) for key, value in labels.items()}
    logits_BW = logits_of(head, 6)
    one, other = (
        head.loss_per_patient(logits_BW, found | {"known_B": known_B}) for found in (labels, others)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL)
def test_the_logits_of_the_unknown_change_no_other_loss(name: str) -> None:
    # With Cox's loss as well: the unknown are in nobody's risk set.
    head, labels = head_of(name), labels_of(name, 6)
    known_B = torch.tensor([True, False, True, True, False, True])
    labels["known_B"] = known_B
    logits_BW = logits_of(head, 6)
    moved_BW = torch.where(known_B.unsqueeze(1), logits_BW, logits_BW + 7.0)
    one, other = (head.loss_per_patient(logits, labels) for logits in (logits_BW, moved_BW))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL)
def test_a_head_is_separable_exactly_if_a_patient_alone_has_the_same_loss(name: str) -> None:
    head, labels = head_of(name), labels_of(name, 8)
    logits_BW = logits_of(head, 8)
    whole_B = head.loss_per_patient(logits_BW, labels)
    alone_B = torch.cat(
        [
            head.loss_per_patient(
                logits_BW[b : b + 1], {key: value[b : b + 1] for key, value in labels.items()}
            )
            for b in range(8)
        ]
    )
    is_same = torch.allclose(whole_B, alone_B, rtol=1e-6)
    assert is_same == head.is_separable == (name in SEPARABLE)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_logits_have_a_finite_loss_gradient_and_prediction(name: str, size: float) -> None:
    head, labels = head_of(name), labels_of(name, 4)
    logits_BW = torch.full((4, head.num_logits), size)
    logits_BW[:, -1] *= -1
    logits_BW.requires_grad_()
    loss_B = head.loss_per_patient(logits_BW, labels)
    assert loss_B.isfinite().all()
    (gradient_BW,) = torch.autograd.grad(loss_B.sum(), logits_BW)
    assert gradient_BW.isfinite().all()
    predictions_BP = head.predictions(logits_BW.detach())
    assert predictions_BP.isfinite().all()
    assert predictions_BP.dtype == torch.float64


@pytest.mark.parametrize("name", ["binary", "multiclass"])
def test_the_mean_cross_entropy_is_scikit_learns(name: str) -> None:
    head, labels = head_of(name), labels_of(name, 60)
    logits_BW = logits_of(head, 60).double()
    expected = log_loss(labels["label_B"].numpy(), head.predictions(logits_BW).numpy())
    found = head.loss_per_patient(logits_BW, labels).mean().item()
    assert found == pytest.approx(expected)


def test_focal_and_weighted_losses_worked_by_hand() -> None:
    # A logit of log 3 is a probability of 3/4 for class 1. The focal loss with γ = 2 is
    # (1 - p)² · -log p: (1/4)² log 4/3 for class 1, (3/4)² log 4 for class 0. Weights 3 and .5.
    logits_BW = torch.full((2, 1), log(3.0), dtype=torch.float64)
    labels = {"known_B": torch.tensor([True, True]), "label_B": torch.tensor([1, 0])}
    focal_B = head_of("binary", focal_gamma=2.0).loss_per_patient(logits_BW, labels)
    np.testing.assert_allclose(focal_B, [log(4 / 3) / 16, 9 / 16 * log(4)])
    weighted_B = head_of("binary", class_weights=[3.0, 0.5]).loss_per_patient(logits_BW, labels)
    np.testing.assert_allclose(weighted_B, [0.5 * log(4 / 3), 3 * log(4)])


def test_focal_and_weighted_losses_of_several_classes_worked_by_hand() -> None:
    # Odds of 1 : 2 : 5. Class 2 has p = 5/8, class 0 has 1/8; γ = 1, weights 4, 1, 1/2.
    logits_BW = torch.tensor([[0.0, log(2.0), log(5.0)]] * 2, dtype=torch.float64)
    labels = {"known_B": torch.tensor([True, True]), "label_B": torch.tensor([2, 0])}
    head = head_of("multiclass", focal_gamma=1.0, class_weights=[4.0, 1.0, 0.5])
    expected = [0.5 * 3 / 8 * log(8 / 5), 4 * 7 / 8 * log(8)]
    np.testing.assert_allclose(head.loss_per_patient(logits_BW, labels), expected)


@pytest.mark.parametrize("name", ["binary", "multiclass"])
@given(gamma=st.floats(0.1, 5), seed=st.integers(0, 1000))
def test_the_focal_loss_is_the_papers_formula(name: str, gamma: float, seed: int) -> None:
    head = head_of(name, focal_gamma=gamma)
    labels = labels_of(name, 10, seed)
    logits_BW = logits_of(head, 10, seed).double()
    true_B = head.predictions(logits_BW).gather(1, labels["label_B"].unsqueeze(1))[:, 0]
    expected_B = -((1 - true_B) ** gamma) * true_B.log()
    torch.testing.assert_close(head.loss_per_patient(logits_BW, labels), expected_B)


@pytest.mark.parametrize("name", ["binary", "multiclass"])
def test_a_gamma_of_0_is_the_cross_entropy_and_equal_weights_of_1_change_nothing(name: str) -> None:
    plain, labels = head_of(name), labels_of(name, 20)
    logits_BW = logits_of(plain, 20)
    if name == "binary":
        expected_B = functional.binary_cross_entropy_with_logits(
            logits_BW[:, 0], labels["label_B"].float(), reduction="none"
        )
    else:
        expected_B = functional.cross_entropy(logits_BW, labels["label_B"], reduction="none")
    ones = [1.0] * len(FIELDS[name]["classes"])
    for head in (plain, head_of(name, focal_gamma=0.0, class_weights=ones)):
        assert torch.equal(head.loss_per_patient(logits_BW, labels), expected_B)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
def test_the_focal_gradient_of_a_certain_patient_is_finite(gamma: float) -> None:
    head = head_of("binary", focal_gamma=gamma)
    logits_BW = torch.tensor([[60.0], [-60.0]], requires_grad=True)
    labels = {"known_B": torch.tensor([True, True]), "label_B": torch.tensor([1, 1])}
    loss_B = head.loss_per_patient(logits_BW, labels)
    (gradient_BW,) = torch.autograd.grad(loss_B.sum(), logits_BW)
    assert gradient_BW.isfinite().all()
    assert gradient_BW[1, 0] < 0  # who is told wrongly is learned from


@pytest.mark.parametrize("name", ["linear", "log"])
@given(part=st.floats(0, 1))
def test_the_value_that_costs_nothing_is_the_value_predicted(name: str, part: float) -> None:
    head = head_of(name)
    ends = np.array(FIELDS[name]["range"], dtype=np.float64)
    value = float(ends[0] + part * (ends[1] - ends[0]))
    # On the study's scale the range is [-1, 1].
    low, high, place = np.log1p([*ends, value]) if name == "log" else (*ends, value)
    logits_BW = torch.tensor([[(2 * place - low - high) / (high - low)]], dtype=torch.float64)
    labels = {"known_B": torch.tensor([True]), "value_B": torch.tensor([value]).double()}
    assert head.loss_per_patient(logits_BW, labels).item() == pytest.approx(0.0, abs=1e-12)
    assert head.predictions(logits_BW).item() == pytest.approx(value, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["linear", "log"])
def test_the_ends_of_the_range_are_the_logits_minus_1_and_1(name: str) -> None:
    low, high = FIELDS[name]["range"]
    logits_BW = torch.tensor([[-1.0], [1.0], [-5.0], [5.0], [1e30], [-1e30]])
    values = head_of(name).predictions(logits_BW)[:, 0].tolist()
    assert values == pytest.approx([low, high, low, high, high, low], rel=1e-12, abs=1e-12)
    assert all(low <= value <= high for value in values)


def test_squared_errors_worked_by_hand() -> None:
    # Linear, [-10, 30]: 20 is at +.5, so a logit of 0 costs .25. Log, [0, 999]: 31.6228 - 1 is the
    # middle (√1000), so 0 costs a logit of .5 squared.
    labels = {"known_B": torch.tensor([True]), "value_B": torch.tensor([20.0])}
    assert head_of("linear").loss_per_patient(torch.zeros(1, 1), labels).item() == 0.25
    labels["value_B"] = torch.tensor([1000**0.5 - 1])
    loss_B = head_of("log").loss_per_patient(torch.full((1, 1), 0.5), labels)
    assert loss_B.item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["binary", "multiclass"])
def test_the_probabilities_of_a_patient_add_to_1(name: str) -> None:
    head = head_of(name)
    scores_BC = head.predictions(logits_of(head, 50, size=20.0))
    assert scores_BC.shape == (50, len(FIELDS[name]["classes"]))
    np.testing.assert_allclose(scores_BC.sum(dim=1), 1.0, rtol=1e-14)


def test_a_proportional_head_moves_all_intervals_by_one_risk() -> None:
    head, other = head_of("hazard"), head_of("hazard by interval")
    fused_BD = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(1))
    baseline_BK = head(torch.zeros(7, WIDTH))
    risk_BK = head(fused_BD) - baseline_BK
    torch.testing.assert_close(risk_BK, risk_BK[:, :1].expand(-1, 3))
    assert risk_BK.std() > 0
    other_BK = other(fused_BD) - other(torch.zeros(7, WIDTH))
    assert not torch.allclose(other_BK, other_BK[:, :1].expand(-1, 3))


def test_before_anything_is_learned_the_hazard_is_a_twentieth() -> None:
    head = head_of("hazard")
    curve_BK = head.predictions(head(torch.zeros(1, WIDTH))).detach()
    hazard = 1 / (1 + np.exp(3.0))
    np.testing.assert_allclose(curve_BK[0], (1 - hazard) ** np.array([1, 2, 3]), rtol=1e-6)
    assert hazard == pytest.approx(0.05, abs=0.003)


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=10, unique=True))
def test_coxs_predictions_fall_with_the_risk(risks: list[float]) -> None:
    predicted_B = head_of("cox").predictions(torch.tensor(risks).unsqueeze(1))[:, 0]
    assert ((predicted_B > 0) & (predicted_B < 1)).all()
    by_risk = predicted_B[torch.tensor(risks).double().argsort()].tolist()
    assert by_risk == sorted(by_risk, reverse=True)


@pytest.mark.parametrize("name", ALL)
def test_only_weights_are_in_the_state_of_a_head(name: str) -> None:
    # Class weights and cut points are the study's, and nothing that is averaged.
    head = head_of(name, **({"class_weights": [1.0, 2.0]} if name == "binary" else {}))
    assert set(head.state_dict()) == {n for n, _ in head.named_parameters()}
