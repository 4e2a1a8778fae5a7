"""What is trained of the patient model: gradients per patient, dropout, frozen and local blocks."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from common.errors import StudyError
from common.models.contract import Batch
from common.models.patient_model import (
    SHARED,
    PatientModel,
    block_owner,
    drop_granularities,
    parameters_of,
    state_of,
    trainable_manifest,
)
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, Labels, batch_of, labels_of, study_of
from tests.unit.model_cases import FUSIONS, GRANULARITIES, copy_of, names_of, study_with


@pytest.fixture(params=FUSIONS)
def study(request: pytest.FixtureRequest) -> Study:
    return study_with(request.param)


@pytest.mark.parametrize(
    "outcomes", [{}, MULTICLASS, MORE_OUTCOMES], ids=["binary", "multiclass", "several"]
)
def test_gradients_per_patient_are_those_of_a_loop(
    study: Study, outcomes: Mapping[str, object]
) -> None:
    study = study_of(outcomes=outcomes, model={"fusion": study.model.fusion})
    model = PatientModel(study).eval().double()
    batch = _doubled(batch_of(study, 7))
    labels = _doubled(labels_of(study, 7, unknown=0.3))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], patient: Batch, outcomes: Labels) -> Tensor:
        one, label = (
            {n: {k: v.unsqueeze(0) for k, v in part.items()} for n, part in named.items()}
            for named in (patient, outcomes)
        )
        logits = torch.func.functional_call(model, (parameters, buffers), (one,))
        return model.loss_per_patient(logits, label).sum()

    per_patient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = per_patient(parameters, batch, labels)
    for b in range(7):
        model.zero_grad()
        one, label = (
            {n: {k: v[b : b + 1] for k, v in part.items()} for n, part in named.items()}
            for named in (batch, labels)
        )
        model.loss_per_patient(model(one), label).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found[name][b], parameter.grad, rtol=1e-9, atol=1e-12)


def _doubled(batch: Batch) -> dict[str, dict[str, Tensor]]:
    return {
        name: {k: v.double() if v.is_floating_point() else v for k, v in part.items()}
        for name, part in batch.items()
    }


# The layers for which Opacus, too, has gradients per patient.
LAYERS = (nn.Linear, nn.Embedding, nn.LayerNorm)


def test_every_parameter_belongs_to_a_layer_with_gradients_per_patient(study: Study) -> None:
    model = PatientModel(study)
    for module in model.modules():
        assert not isinstance(module, nn.modules.batchnorm._NormBase)
        if list(module.parameters(recurse=False)):
            assert isinstance(module, LAYERS)
        if isinstance(module, nn.Embedding):
            assert module.padding_idx is None


def test_every_parameter_is_trained(study: Study) -> None:
    model = PatientModel(study)
    batch = batch_of(study, 50)
    model(batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_granularity_dropout_hides_some_and_never_all() -> None:
    study = study_with("gated_sum", granularity_dropout=0.9)
    model = PatientModel(study)
    batch = copy_of(batch_of(study, 200))
    for part in batch.values():
        part["present_B"][:] = True
    seen: list[Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    torch.manual_seed(0)
    model.train()(batch)
    model.eval()(batch)
    in_training_BT, in_evaluation_BT = seen
    assert in_training_BT.any(dim=1).all()
    assert not in_training_BT.all(dim=1).all()
    assert in_evaluation_BT.all()


def test_granularity_dropout_never_shows_what_is_absent() -> None:
    study = study_with("gated_sum", granularity_dropout=0.5)
    model = PatientModel(study).train()
    batch = batch_of(study, 100)
    seen: list[Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(batch)
    _, present_BT = model.tokens(batch)
    assert not (seen[0] & ~present_BT).any()


def test_a_granularity_of_several_tokens_is_hidden_as_a_whole() -> None:
    owners = ("labs", "notes", "notes", "notes")
    shown_BT = torch.ones(500, 4, dtype=torch.bool)
    torch.manual_seed(0)
    kept_BT = drop_granularities(shown_BT, 0.5, owners)
    assert (kept_BT[:, 1:] == kept_BT[:, 1:2]).all()
    # Two granularities, never both hidden: half of the 1/4 of patients without any is shown all.
    patterns = {tuple(row) for row in kept_BT[:, :2].tolist()}
    assert patterns == {(True, True), (True, False), (False, True)}
    assert kept_BT[:, 1].float().mean().item() == pytest.approx(3 / 4, abs=0.06)


def test_one_token_each_is_drawn_as_one_number_each() -> None:
    # What studies were trained with before granularities could have several tokens.
    shown_BT = torch.ones(50, 3, dtype=torch.bool)
    torch.manual_seed(0)
    expected_BT = torch.rand(50, 3) >= 0.4
    torch.manual_seed(0)
    kept_BT = drop_granularities(shown_BT, 0.4, GRANULARITIES)
    some_B = expected_BT.any(dim=1)
    assert torch.equal(kept_BT[some_B], expected_BT[some_B])
    assert kept_BT[~some_B].all()


def test_granularity_dropout_works_patient_by_patient_under_vmap() -> None:
    def drop(present_T: Tensor) -> Tensor:
        return drop_granularities(present_T.unsqueeze(0), 0.5, ("labs", "notes", "notes"))[0]

    torch.manual_seed(0)
    kept_BT = torch.func.vmap(drop, randomness="different")(torch.ones(200, 3, dtype=torch.bool))
    assert torch.equal(kept_BT[:, 1], kept_BT[:, 2])
    assert 0 < kept_BT[:, 0].sum() < 200


def test_weight_decay_leaves_embeddings_of_one_row_alone() -> None:
    study = study_of(outcomes={"death": MORE_OUTCOMES["death"]})
    undecayed = PatientModel(study).undecayed
    assert {"fusion.query.weight", "heads.death.baseline.weight"} <= undecayed
    assert "encoders.labs.categories.weight" not in undecayed


def test_blocks_that_stay_at_home_are_trained_and_are_no_part_of_an_update() -> None:
    study = study_of(personal={"local_blocks": ["heads.*", "encoders.labs.*"]})
    model = PatientModel(study)
    names = {name for name, _ in model.named_parameters()}
    assert model.local_blocks == {n for n in names if n.startswith(("heads.", "encoders.labs."))}
    assert set(names_of(parameters_of(model))) == names - model.local_blocks
    assert trainable_manifest(model) == parameters_of(model).manifest
    assert all(p.requires_grad for p in model.parameters())
    assert set(names_of(state_of(model))) >= names


@pytest.mark.parametrize(
    ("patterns", "match"),
    [(["encoders.imaging.*"], "matches none"), (["*"], "found all of them")],
)
def test_patterns_that_name_nothing_or_leave_nothing_to_share_are_refused(
    patterns: list[str], match: str
) -> None:
    with pytest.raises(StudyError, match=match):
        PatientModel(study_of(personal={"local_blocks": patterns}))


def test_a_frozen_encoder_has_no_trainable_parameter() -> None:
    model = PatientModel(study_of(model={"frozen": ["labs"]}))
    assert not any(p.requires_grad for p in model.encoders["labs"].parameters())
    owners = {block_owner(block.name) for block in trainable_manifest(model)}
    assert owners == {SHARED, "event", "vitals", "lifestyle"}
    assert any(name.startswith("encoders.labs.") for name in names_of(state_of(model)))
