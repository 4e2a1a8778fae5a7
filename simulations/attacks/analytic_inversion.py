"""Analytic inversion of a table: a record is the quotient of two gradients of the first layer.

Strength: of a step of one patient it gives the whole record, exactly, from the weights of an honest
coordinator, with or without clipping; it costs a division. Of more patients it gives mixtures of
their records, one for each unit of the layer, and the more patients there are the fewer of them are
anybody's record.

Limits: one step of plain gradient descent (Adam's first step has signs alone; several steps are a
sum over models that differ). Noise of a private step is divided by a gradient smaller than itself.

Source: Phong et al. 2018, Privacy-preserving deep learning via additively homomorphic encryption,
section 3, IEEE TIFS 13(5); Geiping et al. 2020, Inverting gradients, proposition 3.1,
arXiv:2003.14053.
"""

from common.arrays import Arrays
from simulations.attacks.exposure import gradients_of
from simulations.attacks.first_layer import FirstLayer, Records, read

LIMITS = (
    "Reads one step of plain gradient descent on one patient, or on very few. It cannot see "
    "through several steps, or through an optimizer that sends signs."
)


def invert(update: Arrays, layer: FirstLayer) -> Records:
    """A guess at a patient's record for each unit of the layer.

    Guarantees:
        - Of a step of one patient every guess is that patient's record, but for rounding.
    """
    return read(gradients_of(update, 1), layer)
