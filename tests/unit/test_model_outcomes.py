"""The patient model with several outcomes: logits side by side, losses that add up."""

from collections.abc import Mapping

import pytest
import torch

from common.models.patient_model import (
    SHARED,
    PatientModel,
    block_owner,
    parameters_of,
)
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, batch_of, labels_of, study_of
from tests.unit.model_cases import GRANULARITIES, names_of


def _several(**outcomes: Mapping[str, object]) -> Study:
    return study_of(outcomes={**MORE_OUTCOMES, **outcomes})


def test_the_logits_of_several_outcomes_stand_side_by_side_in_the_order_of_the_study() -> None:
    study = _several()
    model = PatientModel(study).eval()
    batch = batch_of(study, 5)
    # One of the binary event, one of the stay, one of each of the three intervals.
    logits_BW = model(batch)
    assert logits_BW.shape == (5, 1 + 1 + 3)
    predictions = model.predictions(logits_BW)
    assert {name: tuple(p.shape) for name, p in predictions.items()} == {
        "event": (5, 2),
        "stay": (5, 1),
        "death": (5, 3),
    }
    for place, name in ((slice(0, 1), "event"), (slice(1, 2), "stay"), (slice(2, 5), "death")):
        own = model.heads[name].predictions(logits_BW[:, place])
        assert torch.equal(own, predictions[name])


def test_the_loss_of_several_outcomes_is_their_weighted_sum() -> None:
    weighted = {**MORE_OUTCOMES["stay"], "weight": 2.5}
    study = _several(stay=weighted)
    model = PatientModel(study).eval()
    logits_BW, labels = model(batch_of(study, 9)), labels_of(study, 9)
    event_B = model.heads["event"].loss_per_patient(logits_BW[:, :1], labels["event"])
    stay_B = model.heads["stay"].loss_per_patient(logits_BW[:, 1:2], labels["stay"])
    death_B = model.heads["death"].loss_per_patient(logits_BW[:, 2:], labels["death"])
    torch.testing.assert_close(
        model.loss_per_patient(logits_BW, labels), event_B + 2.5 * stay_B + death_B
    )


@pytest.mark.parametrize("name", ["event", "stay", "death"])
def test_an_outcome_that_is_not_known_of_a_patient_adds_exactly_nothing_to_the_loss(
    name: str,
) -> None:
    study = _several()
    labels = labels_of(study, 8)
    is_known_B = torch.arange(8) >= 3
    losses, gradients = [], []
    for number in (0.0, 1e6):
        model = PatientModel(study).eval()
        own = {
            key: torch.where(is_known_B, v, v.new_tensor(number)) for key, v in labels[name].items()
        }
        own |= {"known_B": is_known_B}
        own |= {"label_B": own["label_B"].clamp(max=1)} if name == "event" else {}
        logits_BW = model(batch_of(study, 8))
        losses.append(model.loss_per_patient(logits_BW, {**labels, name: own}))
        losses[-1][~is_known_B].sum().backward()
        gradients += [p.grad for p in model.heads[name].parameters()]
    assert torch.equal(*losses)
    assert all((gradient == 0).all() for gradient in gradients)
    known = model.loss_per_patient(logits_BW, labels)
    assert torch.equal(losses[0][is_known_B], known[is_known_B])
    assert (losses[0][~is_known_B] < known[~is_known_B]).all()


def test_every_parameter_of_several_outcomes_has_the_outcome_as_its_owner() -> None:
    owners = {block_owner(name) for name in names_of(parameters_of(PatientModel(_several())))}
    assert owners == {SHARED, "event", "stay", "death", *GRANULARITIES}
