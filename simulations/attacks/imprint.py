"""The imprint attack of a malicious coordinator: weights that sort patients into bins.

The coordinator sends a model of the right shape whose first layer measures the same one number of
every patient, h · x, in all of its units, each against a threshold of its own. What a unit's
gradient has beyond that of the unit with the next threshold comes from the patients between the
two, and where that is one patient, it is that patient's record. The site cannot tell: the policy
checks names, shapes and that numbers are finite, and these are.

Strength: it reads records out of one step of many patients, at once and without a search, and need
know no more of them than about how h · x is spread. Clipping alone does not help: it scales each
patient's part of both gradients alike, and costs the attack precision alone.

Limits: it finds patients who are alone between two thresholds, so at most as many as the layer has
units; it needs a layer behind the first, one step, plain gradient descent, and a learning rate that
is not so small that differences are lost in the rounding of 32 bits. Whoever looks at the model
sees that all rows of a layer are alike.

Source: Fowl et al. 2022, Robbing the Fed, section 3, arXiv:2110.13057; Boenisch et al. 2023, When
the curious abandon honesty, arXiv:2112.02918.
Differs from the source in: GELU instead of ReLU, whose bend is made narrow by a factor; signs of
    the second layer alternate, so that what goes on stays small; categories are read from the
    gradient of their embeddings.
"""

from dataclasses import replace

import numpy as np

from common.arrays import Arrays
from common.seeds import seed_of
from simulations.attacks.exposure import gradients_of
from simulations.attacks.first_layer import FirstLayer, Floats, Public, Records, read

LIMITS = (
    "Finds patients who are alone between two thresholds of one step of plain gradient descent. "
    "It needs an encoder with a hidden layer, and a coordinator that lies."
)
# How narrow the bend of GELU is made, and how much goes on to the next layer. The narrower, the
# more patients are apart, and the more is lost in rounding; clipping makes everything smaller.
_SHARP, _PASSED = 120.0, 256.0
_SHARP_CLIPPED, _PASSED_CLIPPED = 30.0, 64.0
# Directions that are tried, and the quantile of distances of thresholds that is to be large.
_DIRECTIONS, _CLOSE = 500, 0.25


def crafted(
    model: Arrays, layer: FirstLayer, public: Public, *, is_clipped: bool, seed: int
) -> Arrays:
    """The model with a first layer that measures, and a second that passes all units on alike.

    Args:
        is_clipped: whether the study has gradients clipped, as the coordinator knows.

    Raises:
        ValueError: the granularity's encoder has no layer behind the first.
    """
    if layer.second is None:
        raise ValueError("expected an encoder with a hidden layer, found a linear one")
    named = {name: value.copy() for name, value in model.unpack().items()}
    sharp, passed = (_SHARP_CLIPPED, _PASSED_CLIPPED) if is_clipped else (_SHARP, _PASSED)
    weight_HC, second_DH = named[layer.weight], named[layer.second]
    num_units = len(weight_HC)
    direction_F, cut_H = _measured(public, num_units, seed)
    # The normalisation is part of what is sent: numbers near 1 lose least in 32 bits.
    named[layer.location] += public.mean_F * named[layer.scale]
    named[layer.scale] *= public.sd_F
    weight_HC[:] = 0.0
    weight_HC[:, : layer.num_numeric] = sharp * direction_F
    named[layer.bias][:] = -sharp * cut_H
    if layer.categories is not None:
        named[layer.categories][:] = 0.0
    sign_D = np.sign(second_DH.sum(axis=1, keepdims=True))
    second_DH[:] = passed / sharp * sign_D * _alternating(num_units) / len(sign_D) ** 0.5
    return Arrays.pack(named)


def _measured(public: Public, num_units: int, seed: int) -> tuple[Floats, Floats]:
    """A direction h, and thresholds between which equally many of the attacker's patients are.

    Of many directions it is the one whose thresholds are furthest apart: the bend of GELU is not
    infinitely narrow.
    """
    random = np.random.default_rng(seed_of(seed, "imprint"))
    directions_MF = random.normal(size=(_DIRECTIONS, public.z_NF.shape[1]))
    directions_MF /= np.linalg.norm(directions_MF, axis=1, keepdims=True)
    parts = np.arange(num_units) / num_units
    cuts_MH = np.quantile(public.z_NF @ directions_MF.T, parts, axis=0).T
    apart_M = np.quantile(np.diff(cuts_MH, axis=1), _CLOSE, axis=1)
    best = int(apart_M.argmax())
    return directions_MF[best], cuts_MH[best]


def read_imprint(update: Arrays, layer: FirstLayer, public: Public) -> Records:
    """A guess at a record for each pair of neighbouring thresholds between which somebody is.

    Args:
        public: as the model was crafted with.
    """
    gradients = gradients_of(update, 1)
    alternating_H = _alternating(len(gradients[layer.bias]))
    parts = {
        layer.weight: _differences(gradients[layer.weight] * alternating_H[:, None]),
        layer.bias: _differences(gradients[layer.bias] * alternating_H),
    }
    if layer.categories is not None:
        of_units_HC = gradients[layer.categories].T * alternating_H[:, None]
        parts[layer.categories] = _differences(of_units_HC).T
    found = read(parts, layer)
    return replace(found, values_NF=found.values_NF * public.sd_F + public.mean_F)


def _alternating(num_units: int) -> Floats:
    return np.where(np.arange(num_units) % 2 == 0, 1.0, -1.0)


def _differences(rows: Floats) -> Floats:
    """Each row less the next: the last is as it is."""
    less: Floats = rows - np.concatenate([rows[1:], np.zeros_like(rows[:1])])
    return less
