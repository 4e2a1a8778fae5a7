"""The patient model: what cannot influence what, on every fusion and every set of granularities."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.arrays import Arrays
from common.errors import StudyError
from common.models.contract import Batch
from common.models.encoders import build_encoder
from common.models.fusion import AttentionFusion, build_fusion
from common.models.patient_model import (
    SHARED,
    PatientModel,
    block_owner,
    load_state,
    parameters_of,
    state_of,
    trainable_manifest,
)
from common.study import Study
from common.study_file import without_granularity
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, Labels, batch_of, labels_of, study_of

FUSIONS = ["attention", "gated_sum", "concat", "graph"]
GRANULARITIES = ["labs", "vitals", "lifestyle"]
SUBSETS = list(chain.from_iterable(combinations(GRANULARITIES, n) for n in (1, 2, 3)))
GARBAGE = [float("nan"), float("inf"), float("-inf"), 3e38, 0.5]


def _study(fusion: str, **model: object) -> Study:
    return study_of(model={"fusion": fusion, **model})


@cache
def _model(fusion: str) -> tuple[Study, PatientModel]:
    """A model to evaluate, and nothing else: it is shared."""
    return _study(fusion), PatientModel(_study(fusion)).eval()


def _copy(batch: Batch) -> dict[str, dict[str, Tensor]]:
    return {name: {k: v.clone() for k, v in part.items()} for name, part in batch.items()}


def _with_garbage(batch: Batch, value: float) -> Batch:
    """The batch with `value` and impossible codes wherever a granularity is absent."""
    spoilt = _copy(batch)
    for part in spoilt.values():
        absent_B = ~part["present_B"]
        part["numeric_BF"][absent_B] = value
        part["observed_BF"][absent_B] = True
        part["codes_BK"][absent_B] = 10**6
    return spoilt


@pytest.fixture(params=FUSIONS)
def study(request: pytest.FixtureRequest) -> Study:
    return _study(request.param)


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_absent_granularity_cannot_influence_the_output(
    seed: int, fusion: str, value: float
) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 6, seed)
    assert torch.equal(model(batch), model(_with_garbage(batch, value)))


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_a_token_that_is_not_present_cannot_influence_the_fusion(
    seed: int, fusion: str, value: float
) -> None:
    study, _ = _model(fusion)
    generator = torch.Generator().manual_seed(seed)
    tokens_BTD = torch.randn(5, 3, 4, generator=generator)
    present_BT = torch.rand(5, 3, generator=generator) < 0.5
    fuse = build_fusion(study.model, token_owners=GRANULARITIES).eval()
    spoilt_BTD = torch.where(present_BT.unsqueeze(-1), tokens_BTD, value)
    assert torch.equal(fuse(tokens_BTD, present_BT), fuse(spoilt_BTD, present_BT))


@pytest.mark.parametrize("value", GARBAGE)
def test_absent_granularity_cannot_influence_the_gradient(study: Study, value: float) -> None:
    batch = batch_of(study, 6)
    gradients = []
    for some in (batch, _with_garbage(batch, value)):
        model = PatientModel(study).eval()
        model(some).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for clean, spoilt in zip(*gradients, strict=True):
        assert torch.equal(clean, spoilt)


def test_absence_itself_is_seen(study: Study) -> None:
    model = PatientModel(study).eval()
    batch = batch_of(study, 20)
    without = _copy(batch)
    without["labs"]["present_B"][:] = False
    assert (model(batch) != model(without))[batch["labs"]["present_B"]].any()


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_what_stands_at_a_missing_place_cannot_influence_the_output(
    seed: int, fusion: str, value: float
) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 6, seed)
    spoilt = _copy(batch)
    for part in spoilt.values():
        part["numeric_BF"][~part["observed_BF"]] = value
    assert torch.equal(model(batch), model(spoilt))


def test_a_missing_value_differs_from_an_average_one() -> None:
    study = _study("attention")
    model = PatientModel(study).eval()
    batch = _copy(batch_of(study, 1))
    batch["vitals"] |= {"present_B": torch.tensor([True]), "numeric_BF": torch.tensor([[120.0]])}
    outputs = []
    for is_observed in (True, False):
        batch["vitals"]["observed_BF"] = torch.tensor([[is_observed]])
        outputs.append(model(batch))
    assert not torch.equal(*outputs)


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS))
def test_a_row_depends_on_its_own_patient_alone(seed: int, fusion: str) -> None:
    study = _study(fusion)
    model = PatientModel(study).eval()
    batch, others = batch_of(study, 5, seed), _copy(batch_of(study, 5, seed + 1))
    for name, part in others.items():
        for key, value in part.items():
            value[2] = batch[name][key][2]
    assert torch.equal(model(batch)[2], model(others)[2])


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS))
def test_the_order_of_patients_is_the_order_of_rows(seed: int, fusion: str) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 7, seed)
    order_B = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    shuffled = {n: {k: v[order_B] for k, v in part.items()} for n, part in batch.items()}
    torch.testing.assert_close(model(shuffled), model(batch)[order_B], rtol=1e-6, atol=1e-6)


def test_a_patient_without_any_granularity_has_a_finite_output(study: Study) -> None:
    model = PatientModel(study).eval()
    batch = _copy(batch_of(study, 4))
    for part in batch.values():
        part["present_B"][:2] = False
    output = model(_with_garbage(batch, float("nan")))
    assert output.isfinite().all()
    assert torch.equal(output[0], output[1])


def test_tokens_of_absent_patients_are_finite(study: Study) -> None:
    batch = _with_garbage(batch_of(study, 8), float("nan"))
    for name, granularity in study.granularities.items():
        tokens_BTD = build_encoder(granularity, study.model.width, study.model.dropout)(batch[name])
        assert tokens_BTD.shape == (8, 1, study.model.width)
        assert tokens_BTD.isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_set_of_granularities_makes_a_model(subset: tuple[str, ...], fusion: str) -> None:
    study = _study(fusion)
    for name in set(GRANULARITIES) - set(subset):
        study = without_granularity(study, name)
    model = PatientModel(study).eval()
    batch = batch_of(study, 4)
    tokens_BTD, present_BT = model.tokens(batch)
    assert tokens_BTD.shape == (4, len(subset), 4)
    assert torch.equal(present_BT[:, 0], batch[next(iter(study.granularities))]["present_B"])
    assert model(batch).shape == (4, 1)


def test_one_logit_per_class_of_a_multiclass_outcome(study: Study) -> None:
    multiclass = study_of(outcomes=MULTICLASS, model={"fusion": study.model.fusion})
    assert PatientModel(multiclass).eval()(batch_of(multiclass, 4)).shape == (4, 3)


def test_no_patients_have_no_rows(study: Study) -> None:
    assert PatientModel(study).eval()(batch_of(study, 0)).shape == (0, 1)


def test_equal_studies_have_equal_weights_and_global_randomness_stays(study: Study) -> None:
    torch.manual_seed(1)
    first = state_of(PatientModel(study))
    assert torch.random.initial_seed() == 1
    after_one = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after_one)
    assert state_of(PatientModel(study)) == first


def test_another_seed_gives_other_weights() -> None:
    first, second = (state_of(PatientModel(study_of(training={"seed": n}))) for n in (0, 1))
    assert first.manifest == second.manifest
    assert first != second


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


@given(st.integers(0, 2**32), st.integers(0, 3))
def test_attention_adds_to_1_and_reads_nothing_from_the_absent(seed: int, num_hidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fusion = AttentionFusion(width=6, num_heads=3, dropout=0.0).eval()
    tokens_BTD = torch.randn(5, 4, 6, generator=generator)
    present_BT = torch.rand(5, 4, generator=generator) < 0.5
    present_BT[:, :num_hidden] = False
    attention_BT = fusion.attention(tokens_BTD, present_BT)
    assert attention_BT.shape == (5, 5)
    torch.testing.assert_close(attention_BT.sum(dim=1), torch.ones(5))
    assert (attention_BT[:, 1:][~present_BT] == 0).all()
    assert (attention_BT[:, 1:][present_BT] > 0).all()
    assert (attention_BT[:, 0] > 0).all()


def _one_block_transformer(fusion: AttentionFusion, tokens_BTD: Tensor, mask: Tensor) -> Tensor:
    """The same block by torch's own attention."""
    torch_attention = nn.MultiheadAttention(6, 3, batch_first=True)
    with torch.no_grad():
        torch_attention.in_proj_weight.copy_(fusion.project.weight)
        torch_attention.in_proj_bias.copy_(fusion.project.bias)
        torch_attention.out_proj.weight.copy_(fusion.merge.weight)
        torch_attention.out_proj.bias.copy_(fusion.merge.bias)
    query_B1D = fusion.query.weight.expand(len(tokens_BTD), 1, 6)
    x_BTD = torch.cat([query_B1D, tokens_BTD], dim=1)
    mask_BT = torch.cat([torch.ones(len(mask), 1, dtype=torch.bool), mask], dim=1)
    normed_BTD = fusion.norm(x_BTD)
    read_B1D, _ = torch_attention(
        normed_BTD[:, :1], normed_BTD, normed_BTD, key_padding_mask=~mask_BT
    )
    fused_BD = query_B1D[:, 0] + read_B1D[:, 0]
    return fused_BD + fusion.mlp(fused_BD)


def test_attention_fusion_is_torchs_multihead_attention() -> None:
    torch.manual_seed(0)
    fusion = AttentionFusion(width=6, num_heads=3, dropout=0.0).eval()
    tokens_BTD, present_BT = torch.randn(8, 4, 6), torch.rand(8, 4) < 0.6
    expected = _one_block_transformer(
        fusion, torch.where(present_BT.unsqueeze(-1), tokens_BTD, 0.0), present_BT
    )
    torch.testing.assert_close(fusion(tokens_BTD, present_BT), expected, rtol=1e-5, atol=1e-6)


def test_granularity_dropout_hides_some_and_never_all() -> None:
    study = _study("gated_sum", granularity_dropout=0.9)
    model = PatientModel(study)
    batch = _copy(batch_of(study, 200))
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
    study = _study("gated_sum", granularity_dropout=0.5)
    model = PatientModel(study).train()
    batch = batch_of(study, 100)
    seen: list[Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(batch)
    _, present_BT = model.tokens(batch)
    assert not (seen[0] & ~present_BT).any()


def _names(whole: Arrays) -> Iterator[str]:
    return (block.name for block in whole.manifest)


def test_normalisation_is_in_the_state_and_is_not_trained(study: Study) -> None:
    model = PatientModel(study)
    trained = {block.name for block in trainable_manifest(model)}
    buffers = {f"encoders.{g}.{b}" for g in GRANULARITIES for b in ("location", "scale")}
    assert set(_names(state_of(model))) == trained | buffers
    assert not trained & buffers
    assert parameters_of(model).manifest == trainable_manifest(model)
    assert state_of(model).flat.dtype == np.float32


def test_a_new_model_normalises_by_the_public_ranges() -> None:
    state = state_of(PatientModel(study_of())).unpack()
    np.testing.assert_allclose(state["encoders.labs.location"], [50, 16])
    np.testing.assert_allclose(state["encoders.labs.scale"], [50, 15])


@given(st.integers(0, 2**32))
def test_a_state_survives_the_model(seed: int) -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    flat = np.random.default_rng(seed).normal(size=state.flat.size).astype(np.float32)
    other = replace(state, flat=flat)
    load_state(model, other)
    assert state_of(model) == other


def test_loading_copies_and_keeps_no_hold_of_the_arrays() -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert state_of(model) != state
    load_state(model, state)
    assert state_of(model) == state


def _spoilt(state: Arrays) -> Iterator[Arrays]:
    first, *others = state.manifest
    yield replace(state, manifest=(replace(first, name="heads.event.more"), *others))
    yield replace(state, manifest=(replace(first, shape=(1, *first.shape)), *others))
    yield replace(state, manifest=(*others, first))
    yield replace(state, manifest=tuple(others), flat=state.flat[first.size :])


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    model = PatientModel(study_of())
    state = state_of(model)
    for other in _spoilt(state):
        with pytest.raises(ValueError, match="arrays of this model, found others"):
            load_state(model, other)
    assert state_of(model) == state


def test_every_parameter_has_an_owner() -> None:
    owners = {block_owner(name) for name in _names(state_of(PatientModel(study_of())))}
    assert owners == {SHARED, "event", *GRANULARITIES}


def test_weight_decay_leaves_embeddings_of_one_row_alone() -> None:
    study = study_of(outcomes={"death": MORE_OUTCOMES["death"]})
    undecayed = PatientModel(study).undecayed
    assert {"fusion.query.weight", "heads.death.baseline.weight"} <= undecayed
    assert "encoders.labs.categories.weight" not in undecayed


# Several outcomes.


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
    owners = {block_owner(name) for name in _names(parameters_of(PatientModel(_several())))}
    assert owners == {SHARED, "event", "stay", "death", *GRANULARITIES}


# What stays at home, and what stays as it starts.


def test_blocks_that_stay_at_home_are_trained_and_are_no_part_of_an_update() -> None:
    study = study_of(personal={"local_blocks": ["heads.*", "encoders.labs.*"]})
    model = PatientModel(study)
    names = {name for name, _ in model.named_parameters()}
    assert model.local_blocks == {n for n in names if n.startswith(("heads.", "encoders.labs."))}
    assert set(_names(parameters_of(model))) == names - model.local_blocks
    assert trainable_manifest(model) == parameters_of(model).manifest
    assert all(p.requires_grad for p in model.parameters())
    assert set(_names(state_of(model))) >= names


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
    assert any(name.startswith("encoders.labs.") for name in _names(state_of(model)))
