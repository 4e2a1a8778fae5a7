"""The source of noise, samples and noised values: worked out again, and never twice the same."""

import ast
import copy
import math
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from common.privacy.mechanisms import NoiseSource, add_gaussian, poisson_sample

ROOT = Path(__file__).parents[2]


class Keystream:
    """A cipher whose keystream is one byte, again and again."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def update(self, data: bytes) -> bytes:
        return bytes([self._byte]) * len(data)


def test_uniforms_are_aes_in_counter_mode_worked_out_block_by_block() -> None:
    key = bytes(range(32))
    # Counter mode is the encryption of 0, 1, 2, … as numbers of 128 bits.
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305
    stream = b"".join(encryptor.update(i.to_bytes(16, "big")) for i in range(5))
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(10)]
    expected = [((word >> 11) | 1) / 2**53 for word in words]
    assert NoiseSource(key, "seeded").uniform(10).tolist() == expected


@pytest.mark.parametrize(("byte", "expected"), [(0x00, 2.0**-53), (0xFF, 1 - 2.0**-53)])
def test_uniforms_lie_strictly_between_0_and_1_and_normals_are_finite(
    byte: int, expected: float
) -> None:
    source = NoiseSource.seeded(1)
    source._stream = Keystream(byte)
    assert source.uniform(3).tolist() == [expected] * 3
    assert np.abs(source.normal(3)).max() < 8.6


def test_normals_are_those_of_box_and_muller() -> None:
    uniform = NoiseSource.seeded(4).uniform(10)
    radius = [math.sqrt(-2 * math.log(u)) for u in uniform[:5]]
    cosines = [r * math.cos(2 * math.pi * u) for r, u in zip(radius, uniform[5:], strict=True)]
    sines = [r * math.sin(2 * math.pi * u) for r, u in zip(radius, uniform[5:], strict=True)]
    assert NoiseSource.seeded(4).normal(10) == pytest.approx(cosines + sines, rel=1e-12)
    # An odd number leaves the last one out.
    assert np.array_equal(NoiseSource.seeded(4).normal(9), NoiseSource.seeded(4).normal(10)[:9])


@given(sizes=st.lists(st.integers(0, 50), max_size=6), seed=st.integers())
def test_every_call_continues_the_stream(sizes: list[int], seed: int) -> None:
    source = NoiseSource.seeded(seed)
    pieces = [source.uniform(size) for size in sizes]
    at_once = NoiseSource.seeded(seed).uniform(sum(sizes))
    assert np.array_equal(np.concatenate([*pieces, []]), at_once)
    assert [len(piece) for piece in pieces] == sizes


@pytest.mark.parametrize("method", ["uniform", "normal"])
@pytest.mark.parametrize("source", [NoiseSource.secure(), NoiseSource.seeded(2)])
def test_nothing_is_given_twice(source: NoiseSource, method: str) -> None:
    # Longer than the pieces in which normals are made. Of 2^52 values, that two of 140000 are the
    # same has a chance of 2e-6 in a secure source.
    drawn = np.concatenate([getattr(source, method)(n) for n in (70_001, 7, 69_999)])
    assert len(np.unique(drawn)) == 140_007


def test_two_secure_sources_have_nothing_in_common_whatever_is_seeded() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        drawn.append(NoiseSource.secure().normal(1000))
    assert not np.intersect1d(*drawn).size


@given(seed=st.integers(), other=st.integers())
def test_seeded_sources_repeat_by_their_seed(seed: int, other: int) -> None:
    first = NoiseSource.seeded(seed).normal(5)
    assert np.array_equal(first, NoiseSource.seeded(seed).normal(5))
    assert np.array_equal(first, NoiseSource.seeded(other).normal(5)) == (seed == other)


def test_a_source_says_which_kind_it_is() -> None:
    assert NoiseSource.secure().kind == "secure"
    assert NoiseSource.seeded(1).kind == "seeded"


@pytest.mark.parametrize("source", [NoiseSource.secure(), NoiseSource.seeded(1)])
@pytest.mark.parametrize(
    "repeat",
    [copy.copy, copy.deepcopy, *(lambda s, p=p: pickle.dumps(s, p) for p in range(6))],
)
def test_a_source_cannot_be_copied_or_pickled(source: NoiseSource, repeat) -> None:
    with pytest.raises(TypeError, match="would be repeated"):
        repeat(source)


@pytest.mark.parametrize("method", ["uniform", "normal"])
def test_a_source_cannot_be_used_in_a_forked_process(method: str) -> None:
    source = NoiseSource.secure()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            getattr(source, method)(2)
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(getattr(source, method)(2)) == 2


def makers_of_known_noise(code: str) -> set[str]:
    """The outermost functions of methods and modules that call `NoiseSource` with a key or seed."""
    makers = set()
    tree = ast.parse(code)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(member for owner in classes for member in owner.body)]:
        if isinstance(node, ast.ClassDef):
            continue
        called = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
        if any(re.search(r"NoiseSource(\.seeded)?$", name) for name in called):
            makers.add(getattr(node, "name", ""))
    return makers


def test_only_simulations_seed_their_noise() -> None:
    assert makers_of_known_noise("class A:\n def f(self):\n  return m.NoiseSource.seeded(1)") == {
        "f"
    }
    assert makers_of_known_noise("SOURCE = NoiseSource(key, 'secure')") == {""}
    assert makers_of_known_noise("def f():\n return NoiseSource.secure()") == set()
    makers = {
        (package, maker)
        for package in ("client", "common", "server")
        for path in (ROOT / package).rglob("*.py")
        for maker in makers_of_known_noise(path.read_text(encoding="utf-8"))
    }
    # `Site.simulated`, which no real site calls.
    assert makers <= {("client", "simulated")}


@given(num_patients=st.integers(0, 60), rate=st.floats(1e-9, 1.0), seed=st.integers())
def test_a_sample_is_the_patients_whose_uniform_is_below_the_rate(
    num_patients: int, rate: float, seed: int
) -> None:
    sample = poisson_sample(NoiseSource.seeded(seed), num_patients, rate)
    uniform = NoiseSource.seeded(seed).uniform(num_patients)
    assert sample.tolist() == [i for i in range(num_patients) if uniform[i] < rate]
    assert sample.dtype == np.int64


def test_a_rate_of_1_samples_everybody() -> None:
    assert poisson_sample(NoiseSource.secure(), 1000, 1.0).tolist() == list(range(1000))


def test_of_no_patients_nobody_is_sampled() -> None:
    assert poisson_sample(NoiseSource.secure(), 0, 0.5).tolist() == []


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_rate_that_is_no_chance_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sample rate"):
        poisson_sample(NoiseSource.seeded(1), 10, rate)


# 1.5 * 2 = 3, so the standard deviation is 3 and the grid is 2 * 2^-24.
def test_noise_of_its_own_is_added_to_every_value() -> None:
    values = np.array([[1.0, -2.0, 0.0], [1e6, 0.5, 3.0]], dtype=np.float32)
    before = values.copy()
    noisy = add_gaussian(
        values, sensitivity=2.0, noise_multiplier=1.5, source=NoiseSource.seeded(3)
    )
    expected = before + 3.0 * NoiseSource.seeded(3).normal(6).reshape(2, 3)
    assert np.abs(noisy - expected).max() <= 2.0**-24
    assert (noisy.shape, noisy.dtype) == ((2, 3), np.float64)
    assert np.array_equal(values, before)


finite = st.floats(-1e9, 1e9)


@given(
    values=npst.arrays(np.float64, npst.array_shapes(min_side=0), elements=finite),
    scale=st.floats(1e-6, 1e6),
)
def test_results_are_multiples_of_a_power_of_two(values: np.ndarray, scale: float) -> None:
    noisy = add_gaussian(
        values, sensitivity=scale, noise_multiplier=1.0, source=NoiseSource.seeded(0)
    )
    grid = 2.0 ** (math.floor(math.log2(scale)) - 24)
    assert scale * 2.0**-25 < grid <= scale * 2.0**-24
    assert np.array_equal(noisy % grid, np.zeros(values.shape))
    assert noisy.shape == values.shape


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_noise_that_is_none_is_refused(bad: float) -> None:
    for sensitivity, noise_multiplier in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(ValueError, match="noise multiplier"):
            add_gaussian(
                np.zeros(2),
                sensitivity=sensitivity,
                noise_multiplier=noise_multiplier,
                source=NoiseSource.seeded(1),
            )


@pytest.mark.parametrize(("sensitivity", "noise_multiplier"), [(-1.0, -1.0), (1e-200, 1e-200)])
def test_a_noise_that_vanishes_or_has_two_wrong_signs_is_refused(
    sensitivity: float, noise_multiplier: float
) -> None:
    with pytest.raises(ValueError, match="noise multiplier"):
        add_gaussian(
            np.zeros(2),
            sensitivity=sensitivity,
            noise_multiplier=noise_multiplier,
            source=NoiseSource.seeded(1),
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_and_not_named(bad: float) -> None:
    with pytest.raises(ValueError, match="expected finite values") as caught:
        add_gaussian(
            np.array([1234.5, bad]),
            sensitivity=1.0,
            noise_multiplier=1.0,
            source=NoiseSource.seeded(1),
        )
    assert "1234" not in str(caught.value)
    assert str(bad) not in str(caught.value).replace("finite", "")
