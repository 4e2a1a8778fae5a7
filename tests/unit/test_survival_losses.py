"""Losses of survival models against one-by-one and pair-by-pair implementations, and their laws."""

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.metrics.survival import negative_log_likelihood
from common.models.survival import cox_loss, discrete_time_loss, survival_curve

CUTS = (10.0, 20.0, 40.0)
EDGES = [0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 41.0, 1e6]

Patient = tuple[float, bool, tuple[float, float, float]]
logit = st.floats(-6, 6, width=32)
time = st.sampled_from(EDGES) | st.floats(0, 60, width=32)
patients = st.lists(
    st.tuples(time, st.booleans(), st.tuples(logit, logit, logit)), min_size=1, max_size=12
)


def tensors(rows: list[Patient]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, times and events."""
    return (
        torch.tensor([row[2] for row in rows], dtype=torch.float64).reshape(-1, 3),
        torch.tensor([row[0] for row in rows], dtype=torch.float64),
        torch.tensor([row[1] for row in rows], dtype=torch.bool),
    )


def loss_of(rows: list[Patient]) -> Tensor:
    return discrete_time_loss(*tensors(rows), torch.tensor(CUTS, dtype=torch.float64))


def one_by_one(row: Patient) -> float:
    """The negative log likelihood in words, interval after interval."""
    at, event, logits = row
    loss, start = 0.0, 0.0
    for end, value in zip(CUTS, logits, strict=True):
        hazard = 1 / (1 + exp(-value))
        if event and at <= end:
            return loss - log(hazard)
        if not event and at < (start + end) / 2:
            return loss
        loss, start = loss - log(1 - hazard), end
    return loss


@given(patients)
def test_the_loss_is_that_of_one_patient_after_the_other(rows: list[Patient]) -> None:
    np.testing.assert_allclose(
        loss_of(rows), [one_by_one(row) for row in rows], rtol=1e-9, atol=1e-12
    )


@given(patients)
def test_the_loss_is_the_likelihood_of_the_curve_in_the_metrics(rows: list[Patient]) -> None:
    logits_BK, time_B, event_B = tensors(rows)
    likelihood_B = negative_log_likelihood(
        survival_curve(logits_BK).numpy(), time_B.numpy(), event_B.numpy(), CUTS
    )
    # The metrics bound a patient's loss at -log 1e-7.
    expected_B = loss_of(rows).clamp(max=-log(1e-7))
    np.testing.assert_allclose(likelihood_B, expected_B, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("point", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("event", [True, False])
def test_model_and_metrics_agree_at_points_that_no_float_holds(point: float, event: bool) -> None:
    cuts = (0.1, 0.3, 0.7, 1.1)
    middles = (0.05, 0.2, 0.5, 0.9)
    for at in (point, middles[cuts.index(point)]):
        time_B = torch.tensor([at])  # float32, as sites read it
        logits_BK = torch.tensor([[-1.0, 0.5, -2.0, 0.3]])
        loss_B = discrete_time_loss(logits_BK, time_B, torch.tensor([event]), torch.tensor(cuts))
        expected_B = negative_log_likelihood(
            survival_curve(logits_BK.double()).numpy(),
            time_B.double().numpy(),
            np.array([event]),
            cuts,
        )
        np.testing.assert_allclose(loss_B, expected_B, rtol=1e-5)


def test_the_loss_worked_by_hand() -> None:
    # Hazards 1/2, 1/5, 1/4. An event at 20 is in the second interval: 1/2 · 1/5. Censored at 29.9,
    # before the middle of the third: 1/2 · 4/5; at 30: 3/4 of that. An event after the last cut
    # point is survival. At time 0 an event is in the first interval, and censoring tells nothing.
    hazards = (log(1), log(1 / 4), log(1 / 3))
    rows = [(20.0, True), (29.9, False), (30.0, False), (41.0, True), (0.0, True), (0.0, False)]
    expected = [0.1, 0.4, 0.3, 0.3, 0.5, 1.0]
    found = loss_of([(at, event, hazards) for at, event in rows])
    np.testing.assert_allclose(found, -np.log(expected), atol=1e-12)


@given(patients, st.data())
def test_a_patient_who_leaves_changes_the_loss_of_no_other(
    rows: list[Patient], data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, len(rows) - 1))
    rest = rows[:gone] + rows[gone + 1 :]
    whole_B = loss_of(rows)
    kept_B = torch.cat([whole_B[:gone], whole_B[gone + 1 :]])
    if rest:
        assert torch.equal(loss_of(rest), kept_B)


@pytest.mark.parametrize("size", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("at", EDGES)
@pytest.mark.parametrize("event", [True, False])
def test_extreme_logits_have_a_finite_loss_and_gradient(
    size: float, at: float, event: bool
) -> None:
    logits_BK = torch.tensor([[size, -size, size]], requires_grad=True)
    loss_B = discrete_time_loss(
        logits_BK, torch.tensor([at]), torch.tensor([event]), torch.tensor(CUTS)
    )
    assert loss_B.isfinite().all()
    (gradient_BK,) = torch.autograd.grad(loss_B.sum(), logits_BK)
    assert gradient_BK.isfinite().all()


@given(patients)
def test_a_gradient_touches_only_the_intervals_at_risk(rows: list[Patient]) -> None:
    logits_BK, time_B, event_B = tensors(rows)
    logits_BK.requires_grad_()
    loss_B = discrete_time_loss(logits_BK, time_B, event_B, torch.tensor(CUTS).double())
    (gradient_BK,) = torch.autograd.grad(loss_B.sum(), logits_BK)
    for (at, event, _), gradient_K in zip(rows, gradient_BK, strict=True):
        for k, (start, end) in enumerate(zip((0.0, *CUTS), CUTS, strict=False)):
            is_at_risk = (at > start or k == 0) if event else at >= (start + end) / 2
            assert (gradient_K[k] != 0) == is_at_risk


@given(st.lists(st.tuples(logit, logit, logit), min_size=1, max_size=8))
def test_a_curve_falls_from_interval_to_interval_by_its_hazard(
    rows: list[tuple[float, float, float]],
) -> None:
    logits_BK = torch.tensor(rows, dtype=torch.float64)
    expected_BK = (1 - logits_BK.sigmoid()).cumprod(dim=1)
    torch.testing.assert_close(survival_curve(logits_BK), expected_BK)


CoxRow = tuple[float, bool, float]
cox_patients = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 9, width=32), st.booleans(), logit),
    min_size=1,
    max_size=12,
)


def cox_of(rows: list[CoxRow]) -> Tensor:
    risk_B, time_B = (torch.tensor([r[i] for r in rows], dtype=torch.float64) for i in (2, 0))
    return cox_loss(risk_B, time_B, torch.tensor([r[1] for r in rows]))


def pair_by_pair(rows: list[CoxRow]) -> list[float]:
    """Breslow's partial likelihood: each event among all who are still there at its time."""
    num_events = sum(event for _, event, _ in rows)
    losses = []
    for at, event, risk in rows:
        at_risk = 0.0
        for other_at, _, other_risk in rows:
            if other_at >= at:
                at_risk += exp(other_risk)
        losses.append((log(at_risk) - risk) * len(rows) / num_events if event else 0.0)
    return losses


@given(cox_patients)
def test_coxs_loss_is_that_of_a_loop_over_all_pairs(rows: list[CoxRow]) -> None:
    # The factor of patients by events is a float32.
    np.testing.assert_allclose(cox_of(rows), pair_by_pair(rows), rtol=1e-6, atol=1e-9)


def test_coxs_loss_worked_by_hand() -> None:
    # Relative risks 1, 2 and 3 of three patients: the event at 1 is among all (1 of 6), the tied
    # ones at 2 are among both of them (2 of 5 and 3 of 5, Breslow). The mean is over three events.
    rows = [(1.0, True, 0.0), (2.0, True, log(2)), (2.0, True, log(3))]
    np.testing.assert_allclose(cox_of(rows), [log(6), log(5 / 2), log(5 / 3)])
    # Censored, the last one has no term of its own; the mean over patients is that over 2 events.
    rows[2] = (2.0, False, log(3))
    np.testing.assert_allclose(cox_of(rows), [1.5 * log(6), 1.5 * log(5 / 2), 0.0])


def test_coxs_loss_of_a_patient_depends_on_the_others() -> None:
    rows = [(1.0, True, 0.5), (2.0, False, 2.0), (3.0, True, -1.0)]
    assert cox_of(rows)[0] != cox_of([rows[0], rows[2]])[0]


@given(cox_patients, st.floats(-3, 3))
def test_coxs_loss_knows_relative_risks_only(rows: list[CoxRow], shift: float) -> None:
    moved = [(at, event, risk + shift) for at, event, risk in rows]
    np.testing.assert_allclose(cox_of(moved), cox_of(rows), atol=1e-9)


def test_a_batch_without_an_event_has_a_loss_and_gradient_of_zero() -> None:
    risk_B = torch.tensor([0.3, -2.0], requires_grad=True)
    loss_B = cox_loss(risk_B, torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
    assert loss_B.tolist() == [0.0, 0.0]
    (gradient_B,) = torch.autograd.grad(loss_B.sum(), risk_B)
    assert gradient_B.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_risks_have_a_finite_loss_and_gradient(size: float) -> None:
    risk_B = torch.tensor([size, -size, 0.0, size], requires_grad=True)
    loss_B = cox_loss(risk_B, torch.tensor([4.0, 1.0, 2.0, 4.0]), torch.tensor([True] * 4))
    assert loss_B.isfinite().all()
    (gradient_B,) = torch.autograd.grad(loss_B.sum(), risk_B)
    assert gradient_B.isfinite().all()
