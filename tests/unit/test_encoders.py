"""The encoders: what cannot influence what, for every kind of granularity and every option."""

import pytest
import torch
from torch import Tensor, nn

from common.granularities import AnyGranularity
from common.models.contract import Encoder
from common.models.encoders import build_encoder
from common.models.numeric import NumericEncoder
from common.models.series import channels_of
from tests.unit.encoder_cases import CASES, Part, granularity_of, patients_of, select, with_garbage

WIDTH = 5
NAN, INFINITY = float("nan"), float("inf")
GARBAGE = [(NAN, 10**6), (INFINITY, -1), (-INFINITY, -(2**62)), (3e38, 2**62)]
# The layers for which Opacus, too, has gradients per patient.
LAYERS = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d)


@pytest.fixture(params=CASES)
def granularity(request: pytest.FixtureRequest) -> AnyGranularity:
    return CASES[request.param]


def _encoder(granularity: AnyGranularity, *, dropout: float = 0.0, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(granularity, WIDTH, dropout).eval()


def _gradients(encoder: Encoder, part: Part) -> list[Tensor | None]:
    encoder.zero_grad()
    encoder(part).square().sum().backward()
    return [parameter.grad for parameter in encoder.parameters()]


def test_every_kind_and_option_is_in_these_tests() -> None:
    assert sorted(CASES) == sorted(
        [
            "tabular",
            "series-tcn",
            "series-gru",
            "series-summary",
            "images-cnn",
            "images-residual_cnn",
        ]
        + [f"markers-{option}" for option in ("mlp", "cnn1d", "cnn2d")]
        + [f"{k}-{o}" for k in ("notes", "sequences") for o in ("lstm", "transformer", "bag")]
        + ["notes-pretrained"]
    )


@pytest.mark.parametrize("num_patients", [0, 1, 6])
def test_an_encoder_makes_its_tokens_of_every_patient(
    granularity: AnyGranularity, num_patients: int
) -> None:
    encoder = _encoder(granularity)
    tokens_BTD = encoder(patients_of(granularity, num_patients))
    assert tokens_BTD.shape == (num_patients, encoder.num_tokens, WIDTH)
    assert tokens_BTD.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_a_row_depends_on_its_own_patient_alone(granularity: AnyGranularity, seed: int) -> None:
    encoder = _encoder(granularity)
    part, others = (patients_of(granularity, 6, seed + n) for n in (0, 100))
    for name, value in others.items():
        value[2] = part[name][2]
    assert torch.equal(encoder(part)[2], encoder(others)[2])


@pytest.mark.parametrize(("value", "code"), GARBAGE)
@pytest.mark.parametrize("training", [False, True])
def test_an_absent_patient_influences_neither_token_nor_gradient(
    granularity: AnyGranularity, value: float, code: int, training: bool
) -> None:
    encoder = _encoder(granularity).train(training)
    part = patients_of(granularity, 9)
    spoilt = with_garbage(part, value, code)
    assert any(not torch.equal(part[name], spoilt[name]) for name in part)
    tokens_BTD = encoder(spoilt)
    assert torch.equal(encoder(part), tokens_BTD)
    absent = tokens_BTD[~part["present_B"]]
    assert len(absent) > 1
    assert absent.isfinite().all()
    assert torch.equal(absent[0], absent[1])
    pairs = zip(_gradients(encoder, part), _gradients(encoder, spoilt), strict=True)
    for clean, other in pairs:
        assert clean is not None
        assert other is not None
        assert clean.isfinite().all()
        assert torch.equal(clean, other)


@pytest.mark.parametrize(("value", "code"), GARBAGE)
def test_what_stands_at_a_missing_place_influences_neither_token_nor_gradient(
    granularity: AnyGranularity, value: float, code: int
) -> None:
    encoder = _encoder(granularity)
    part = patients_of(granularity, 9)
    spoilt = with_garbage(part, value, code, missing=True)
    assert torch.equal(encoder(part), encoder(spoilt))
    pairs = zip(_gradients(encoder, part), _gradients(encoder, spoilt), strict=True)
    assert all(torch.equal(clean, other) for clean, other in pairs)  # type: ignore[arg-type]


def test_the_order_of_patients_is_the_order_of_tokens(granularity: AnyGranularity) -> None:
    encoder = _encoder(granularity)
    part = patients_of(granularity, 7)
    order_B = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = encoder(select(part, order_B))
    torch.testing.assert_close(shuffled, encoder(part)[order_B], rtol=1e-5, atol=1e-6)


def test_patients_who_differ_have_tokens_that_differ(granularity: AnyGranularity) -> None:
    part = patients_of(granularity, 12)
    tokens_BTD = _encoder(granularity)(part)[part["present_B"]]
    assert len({tuple(token.tolist()) for token in tokens_BTD.flatten(1)}) > 1


def test_gradients_per_patient_are_those_of_a_loop(granularity: AnyGranularity) -> None:
    encoder = _encoder(granularity).double()
    num_patients = 6
    part = {
        name: value.double() if value.is_floating_point() else value
        for name, value in patients_of(granularity, num_patients).items()
    }
    parameters = {name: p.detach() for name, p in encoder.named_parameters()}
    buffers = dict(encoder.named_buffers())

    def loss(parameters: dict[str, Tensor], patient: Part) -> Tensor:
        one = {name: value.unsqueeze(0) for name, value in patient.items()}
        token_BTD = torch.func.functional_call(encoder, (parameters, buffers), (one,))
        return token_BTD.square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, part)
    for b in range(num_patients):
        expected = _gradients(encoder, select(part, slice(b, b + 1)))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][b], gradient, rtol=1e-9, atol=1e-12)


def test_a_model_in_float64_takes_patients_in_float32(granularity: AnyGranularity) -> None:
    assert _encoder(granularity).double()(patients_of(granularity, 3)).dtype == torch.float64


def test_every_parameter_belongs_to_a_layer_with_gradients_per_patient(
    granularity: AnyGranularity,
) -> None:
    for module in _encoder(granularity).modules():
        assert not isinstance(module, nn.modules.batchnorm._NormBase | nn.RNNBase)
        assert not getattr(module, "inplace", False)
        if list(module.parameters(recurse=False)):
            assert isinstance(module, LAYERS)
        if isinstance(module, nn.Embedding):
            assert module.padding_idx is None


def test_every_parameter_is_trained(granularity: AnyGranularity) -> None:
    encoder = _encoder(granularity)
    for gradient in _gradients(encoder, patients_of(granularity, 40)):
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_what_is_kept_is_the_parameters_and_the_normalisation(granularity: AnyGranularity) -> None:
    encoder = _encoder(granularity)
    kept = set(encoder.state_dict()) - {name for name, _ in encoder.named_parameters()}
    assert kept == ({"location", "scale"} if isinstance(encoder, NumericEncoder) else set())
    assert isinstance(encoder, NumericEncoder) == bool(granularity.numeric)


def test_a_new_encoder_normalises_by_the_public_ranges() -> None:
    encoder = _encoder(granularity_of("markers", range=[-1, 5]))
    assert isinstance(encoder, NumericEncoder)
    assert torch.equal(encoder.location, torch.full((11,), 2.0))
    assert torch.equal(encoder.scale, torch.full((11,), 3.0))


def test_equal_seeds_give_equal_weights_and_others_do_not(granularity: AnyGranularity) -> None:
    first, same, other = (
        torch.cat([p.flatten() for p in _encoder(granularity, seed=seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_dropout_is_random_in_training_alone(granularity: AnyGranularity) -> None:
    part = patients_of(granularity, 8)
    encoder = _encoder(granularity, dropout=0.5)
    assert torch.equal(encoder(part), encoder(part))
    encoder.train()
    # A bare linear or recurrent stack may draw the same zeros once, not five times.
    results = [encoder(part) for _ in range(5)]
    assert any(not torch.equal(results[0], result) for result in results[1:])


def test_an_encoder_learns_who_is_who(granularity: AnyGranularity) -> None:
    part = {name: value.clone() for name, value in patients_of(granularity, 16, seed=3).items()}
    part = select(part, part["present_B"])
    labels_B = torch.arange(len(part["present_B"])) % 2.0
    encoder = _encoder(granularity).train()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        logits_B = encoder(part)[:, 0, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("series-tcn", {"end_minutes": 1.0, "hidden": 1}),
        ("series-tcn", {"end_minutes": 1.0, "hidden": 2}),
        ("series-gru", {"end_minutes": 1.0, "hidden": 1}),
        ("images-cnn", {"size": [4, 4], "max_images": 1, "channels": [1, 2]}),
        ("images-residual_cnn", {"size": [4, 5], "max_images": 1, "channels": [2, 1]}),
        ("markers-mlp", {"hidden": []}),
        ("markers-cnn1d", {"markers": ["a"], "hidden": [2, 1]}),
        ("markers-cnn1d", {"markers": [str(i) for i in range(4099)], "hidden": [3]}),
        ("markers-cnn2d", {"markers": ["a"], "hidden": [1, 2]}),
        ("markers-cnn2d", {"markers": [str(i) for i in range(4099)], "hidden": [3]}),
        ("notes-transformer", {"max_tokens": 1, "hidden": 3, "num_heads": 1}),
        ("sequences-lstm", {"max_tokens": 1, "hidden": 2, "num_layers": 3}),
        ("notes-bag", {"vocabulary": ["fever"], "hidden": 2}),
        ("series-summary", {"end_minutes": 1.0}),
    ],
)
def test_the_smallest_and_odd_sizes_work(case: str, fields: dict[str, object]) -> None:
    kind, option = case.split("-")
    granularity = granularity_of(kind, encoder=option, **fields)
    encoder = _encoder(granularity).train()
    for num_patients in (0, 1, 2):
        tokens_BTD = encoder(patients_of(granularity, num_patients))
        assert tokens_BTD.shape == (num_patients, 1, WIDTH)
        assert tokens_BTD.isfinite().all()


def test_an_image_that_was_not_observed_does_not_count() -> None:
    encoder = _encoder(CASES["images-cnn"])
    part = patients_of(CASES["images-cnn"], 4)
    part["present_B"][:] = True
    part["observed_BN"][:] = torch.tensor([True, False])
    alone = {**part, "images_BNHW": part["images_BNHW"][:, :1], "observed_BN": torch.ones(4, 1) > 0}
    torch.testing.assert_close(encoder(part), encoder(alone))


@pytest.mark.parametrize(
    "case", [name for name in CASES if "tokens_BT" in patients_of(CASES[name], 1)]
)
def test_more_padding_does_not_change_the_token(case: str) -> None:
    encoder = _encoder(CASES[case])
    part = patients_of(CASES[case], 20)
    short = {**part, "tokens_BT": part["tokens_BT"][:, :5]}
    long = {**part, "tokens_BT": torch.cat([short["tokens_BT"], torch.zeros(20, 3).long()], dim=1)}
    torch.testing.assert_close(encoder(long), encoder(short), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["notes-lstm", "notes-transformer"])
def test_the_order_of_words_counts(case: str) -> None:
    part = {"tokens_BT": torch.tensor([[2, 3, 4, 0], [4, 3, 2, 0]]), "present_B": torch.ones(2) > 0}
    first, second = _encoder(CASES[case])(part)
    assert not torch.allclose(first, second)


def test_the_order_of_words_does_not_count_in_a_bag() -> None:
    part = {"tokens_BT": torch.tensor([[2, 3, 4, 0], [4, 3, 2, 0]]), "present_B": torch.ones(2) > 0}
    first, second = _encoder(CASES["notes-bag"])(part)
    torch.testing.assert_close(first, second)


def test_which_marker_it_is_counts() -> None:
    # A mean over all places would forget it; the far ends of the row are equal to a convolution.
    for option in ("cnn1d", "cnn2d"):
        granularity = granularity_of(
            "markers", encoder=option, markers=[f"m{i}" for i in range(64)]
        )
        numeric_BF = torch.ones(2, 64)
        numeric_BF[0, 20] = numeric_BF[1, 36] = 2.0
        part = {
            "numeric_BF": numeric_BF,
            "observed_BF": torch.ones(2, 64) > 0,
            "present_B": torch.ones(2) > 0,
        }
        first, second = _encoder(granularity)(part)
        assert (first - second).abs().max() > 1e-3


def test_the_channels_of_a_series_are_what_was_last_seen_and_how_recently() -> None:
    # One signal: measured 5 at step 1 and 7 at step 3, of 4 steps; what stands elsewhere is not.
    z_BTF = torch.tensor([[[0.0], [5.0], [0.0], [7.0]]])
    observed_BTF = torch.tensor([[[False], [True], [False], [True]]])
    carried, observed, recency, time = channels_of(z_BTF, observed_BTF)[0].T.tolist()
    assert carried == [0, 5, 5, 7]
    assert observed == [0, 1, 0, 1]
    assert recency == [0, 1, 0.5, 1]
    assert time == [-1, -0.5, 0, 0.5]
