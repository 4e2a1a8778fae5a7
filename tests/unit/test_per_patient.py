"""Clipped sums of gradients per patient: both ways against a loop in which everyone is alone."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, study_table
from tests.unit.encoder_cases import CASES, granularity_of
from tests.unit.per_patient_cases import (
    FUSIONS,
    WAYS,
    batch_of,
    check,
    loop,
    model_of,
    relative,
    study_with,
    sum_of,
    trainable,
    vector,
)

OUTCOMES = {
    "multiclass": MULTICLASS,
    "focal": {"event": MULTICLASS["event"] | {"focal_gamma": 2.0, "class_weights": [1, 2, 3]}},
    "two heads": {"stay": MORE_OUTCOMES["stay"]},
    "survival by interval": {"death": MORE_OUTCOMES["death"] | {"proportional": False}},
    "all heads": MORE_OUTCOMES,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_sum_and_norms_are_those_of_a_loop_for_every_encoder(case: str, way: str) -> None:
    study = study_with(case)
    model = model_of(study)
    check(model, *batch_of(study, 5), way=way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_sum_and_norms_are_those_of_a_loop_for_every_fusion(fusion: str, way: str) -> None:
    study = study_with("tabular", "series-gru", "images-cnn", model={"fusion": fusion})
    check(model_of(study), *batch_of(study, 6), way=way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OUTCOMES)
def test_sum_and_norms_are_those_of_a_loop_for_every_head(kind: str, way: str) -> None:
    study = study_with("tabular", "markers-mlp", outcomes=OUTCOMES[kind])
    check(model_of(study), *batch_of(study, 8), way=way)


def test_images_of_a_patient_stand_one_after_the_other() -> None:
    # Six images: two of each of three patients. The sum is that of a loop over patients, and not
    # the one of a model that takes every third image for a patient's.
    study = study_with("images-residual_cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    check(model, inputs, outcomes)
    mixed = torch.arange(6).view(2, 3).t().flatten()
    images = inputs["images_residual_cnn"]["images_BNHW"]
    other = images.flatten(0, 1)[mixed].view_as(images)
    spoilt = {"images_residual_cnn": inputs["images_residual_cnn"] | {"images_BNHW": other}}
    assert relative(*(vector(sum_of(model, i, outcomes)) for i in (inputs, spoilt))) > 1e-3


def test_an_absent_granularity_has_zero_gradient_and_the_others_theirs() -> None:
    study = study_with("tabular", "notes-transformer")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 6)
    for absent in (slice(1, 2), slice(None)):
        inputs["notes_transformer"]["present_B"][absent] = False
        check(model, inputs, outcomes)
    sums = dict(zip(dict(model.named_parameters()), sum_of(model, inputs, outcomes), strict=True))
    notes = [s for name, s in sums.items() if name.startswith("encoders.notes")]
    assert len(notes) > 5
    assert not vector(notes).any()
    assert vector([s for name, s in sums.items() if "tabular" in name]).any()


@pytest.mark.parametrize(("num_patients", "num_markers"), [(1, 2), (2, 2), (70, 9000), (1030, 1)])
def test_any_number_of_patients_is_the_sum_of_a_loop(num_patients: int, num_markers: int) -> None:
    # 18,001 numbers of a patient are worked on 32 patients at a time, and 3 of them 1,024.
    markers = [f"m{n}" for n in range(num_markers)]
    granularity = granularity_of("markers", markers=markers, hidden=[]).model_dump()
    table = study_table() | {"granularities": {"markers": granularity}}
    study = Study.model_validate(table)
    model, (inputs, outcomes) = model_of(study), batch_of(study, num_patients)
    expected = loop(model, inputs, outcomes, 0.5).sums
    assert relative(vector(sum_of(model, inputs, outcomes)), vector(expected)) < 1e-5


def test_no_patient_gives_zeros_in_the_shape_of_the_parameters() -> None:
    study = study_with("tabular", "images-cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 0)
    sums = sum_of(model, inputs, outcomes)
    assert [s.shape for s in sums] == [p.shape for p in model.parameters()]
    assert not vector(sums).any()


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0, 1e-13, float("inf"), float("nan")])
def test_a_norm_out_of_its_range_is_refused(max_grad_norm: float) -> None:
    study = study_with("tabular")
    with pytest.raises(ValueError, match="max_grad_norm of 1e-12 or more, found"):
        sum_of(model_of(study), *batch_of(study, 2), max_grad_norm)


def test_a_loss_that_depends_on_other_patients_is_refused() -> None:
    outcomes = {"death": MORE_OUTCOMES["death"] | {"loss": "cox"}}
    study = study_with("tabular", outcomes=outcomes)
    with pytest.raises(ValueError, match="depend on one patient each"):
        sum_of(model_of(study), *batch_of(study, 2))


def test_what_is_random_is_drawn_once_and_for_each_patient() -> None:
    dropouts = {"dropout": 0.4, "granularity_dropout": 0.4}
    study = study_with("tabular", "images-cnn", "notes-transformer", model=dropouts)
    augment = {"flip": 0.5, "shift": 0.2, "contrast": 0.3, "noise": 0.1}
    images = granularity_of("images", augment=augment).model_dump()
    table = study.model_dump()
    table["granularities"]["images_cnn"] = images
    study = Study.model_validate(table)
    model, (inputs, outcomes) = model_of(study), batch_of(study, 6)
    torch.manual_seed(3)
    loss = model.loss_per_patient(model(inputs), outcomes).sum()
    expected = vector(list(torch.autograd.grad(loss, trainable(model))))
    torch.manual_seed(3)
    found = vector(sum_of(model, inputs, outcomes, 1e6))
    assert relative(found, expected) < 1e-5
    assert relative(vector(sum_of(model, inputs, outcomes, 1e6)), expected) > 1e-2


def test_frozen_parameters_are_left_out_of_sum_and_norm() -> None:
    study = study_with("tabular", "series-tcn", model={"frozen": ["tabular"]})
    model, (inputs, outcomes) = model_of(study), batch_of(study, 5)
    project = model.encoders["series_tcn"].project
    project.weight.requires_grad_(False)
    model.encoders["series_tcn"].body.blocks[0].layers[0].bias.requires_grad_(False)
    model.encoders["series_tcn"].body.blocks[1].layers[3].weight.requires_grad_(False)
    for way in WAYS:
        check(model, inputs, outcomes, way=way)
    assert len(sum_of(model, inputs, outcomes)) == len(trainable(model))
    assert not any(p.requires_grad for p in model.encoders["tabular"].parameters())
    model.requires_grad_(False)
    assert sum_of(model, inputs, outcomes) == []


def state(model: nn.Module) -> list[Any]:
    return [
        {name: value.clone() for name, value in model.named_buffers()},
        {name: p.detach().clone() for name, p in model.named_parameters()},
        {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        [len(m._forward_hooks) for m in model.modules()],
        model.training,
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("case", ["tabular", "images-cnn"])
def test_the_model_is_as_before_also_where_it_raises(case: str, fails: bool) -> None:
    study = study_with(case, model={"frozen": []})
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    for parameter in trainable(model)[::2]:
        parameter.grad = torch.ones_like(parameter)
    before = state(model)
    if fails:
        del outcomes["event"]["label_B"]
        with pytest.raises(KeyError):
            sum_of(model, inputs, outcomes)
    else:
        sum_of(model, inputs, outcomes)
    after = state(model)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(before[2][name][0] == after[2][name][0] for name in before[2])
    assert all(before[2][name][1] is after[2][name][1] for name in before[2])
    assert before[3:] == after[3:]


def test_it_works_where_gradients_are_switched_off() -> None:
    study = study_with("tabular")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    expected = vector(sum_of(model, inputs, outcomes))
    with torch.no_grad():
        assert torch.equal(vector(sum_of(model, inputs, outcomes)), expected)


def test_nothing_of_a_batch_is_kept_once_the_sum_is_there() -> None:
    study = study_with("images-cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    outputs = []
    stages = model.encoders["images_cnn"].stages
    handles = [
        layer.register_forward_hook(lambda module, args, out: outputs.append(weakref.ref(out)))
        for layer in stages
    ]
    gc.disable()
    try:
        sum_of(model, inputs, outcomes)
        assert len(outputs) == len(stages)
        assert all(output() is None for output in outputs)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_sum_of_the_processor() -> None:
    study = study_with("tabular", "series-gru", "images-cnn", "notes-transformer")
    model, batch = model_of(study).double(), batch_of(study, 6)
    inputs, outcomes = batch
    expected = vector(sum_of(model, inputs, outcomes))
    inputs, outcomes = (
        {n: {k: v.cuda() for k, v in a.items()} for n, a in named.items()} for named in batch
    )
    found = vector(sum_of(model.cuda(), inputs, outcomes))
    assert found.is_cuda
    assert relative(found.cpu(), expected) < 1e-9
