"""Aggregation block by block: pure functions from updates to one update.

Hospitals differ in what they have. Every parameter block is combined over the sites that trained
it, so that a hospital without a scanner neither blocks the round nor drags the image encoder back.

Letters of shapes: N sites, P parameters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays, Manifest, places_in, slices_of
from common.models.patient_model import block_owner

Floats = NDArray[np.float64]

# An update that many times as long as the median one is told of.
_LONG = 3.0

# Parameters that are combined at a time.
_PIECE = 1 << 16

# Combines the updates (N, P) of the sites that trained a block, with weights (N) > 0, into (P):
# each parameter by itself.
Combine = Callable[[NDArray[np.float32], Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class SiteUpdate:
    """What one site contributes to a round.

    Attributes:
        counts: training patients by granularity, and "patients" for all of them.
    """

    site: str
    update: Arrays
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The combined update of a round; `trained_P` says which parameters any site trained."""

    update: Arrays
    trained_P: NDArray[np.bool_]


def aggregate(
    updates: Sequence[SiteUpdate],
    combine: Combine,
    *,
    equal_weights: bool,
    min_sites: int = 1,
) -> Combined:
    """The combined update of a round.

    Guarantees:
        - A block is combined over the sites with at least one patient who has its granularity.
        - A block that no site trained has an update of exactly zero, and is not `trained_P`.
        - The result does not depend on the order of `updates`: sites are taken by name.

    Source: per-block averaging as in FedAvg (McMahan et al. 2017, algorithm 1), with n_k counted
    per granularity.

    Args:
        updates: one or more, all with the same manifest.
        min_sites: a block that fewer sites trained stays as it was: the mean over one site is
            that site's own update.
        equal_weights: every site that trained a block counts alike, whatever its size.
    """
    if not updates:
        raise ValueError("expected one update or more, found none")
    ordered = sorted(updates, key=lambda u: u.site)
    manifest = ordered[0].update.manifest
    result = np.zeros_like(ordered[0].update.flat)
    trained_P = np.zeros(result.shape, dtype=np.bool_)
    for block, place in slices_of(manifest):
        owner = block_owner(block.name)
        trained = [u for u in ordered if u.counts.get(owner, 0) > 0]
        if len(trained) < max(min_sites, 1):
            continue
        weights_N = np.asarray([1.0 if equal_weights else u.counts[owner] for u in trained])
        for piece in _pieces(place):
            result[piece] = combine(np.stack([u.update.flat[piece] for u in trained]), weights_N)
        trained_P[place] = True
    return Combined(update=Arrays(manifest=manifest, flat=result), trained_P=trained_P)


def _pieces(place: slice) -> Iterator[slice]:
    """The place, cut: what is combined at a time must not be many times a large model."""
    for start in range(place.start, place.stop, _PIECE):
        yield slice(start, min(start + _PIECE, place.stop))


def long_updates(updates: Sequence[SiteUpdate]) -> dict[str, float]:
    """The sites whose update is over 3 times as long as the median of all, and how many times.

    An alarm and no defence: a hospital of other patients may have a long update as well, and one
    that is hostile may stay below. The norm of an update is bounded by `server.inbox`, and what one
    site can do by the median and the trimmed mean. Of fewer than three sites, none is named.

    Threat: C-1, C-4.
    """
    norms = {u.site: u.update.norm for u in updates}
    median = float(np.median(list(norms.values()))) if len(norms) >= 3 else 0.0
    if median == 0.0:
        return {}
    return {
        site: round(norm / median, 1)
        for site, norm in sorted(norms.items())
        if norm > _LONG * median
    }


def add_to_parameters(state: Arrays, manifest: Manifest, move_P: NDArray[np.float64]) -> Arrays:
    """The model's `state` with `move_P` added to the parameters that `manifest` names.

    What the manifest does not name (the normalisation) stays as it was, bit for bit.
    """
    flat = state.flat.copy()
    for place, target in places_in(state.manifest, manifest):
        flat[target] = (flat[target].astype(np.float64) + move_P[place]).astype(np.float32)
    return Arrays(manifest=state.manifest, flat=flat)


def weighted_mean(updates_NP: NDArray[np.float32], weights_N: Floats) -> Floats:
    """The mean with weights, summed site after site in float64.

    >>> weighted_mean(np.array([[0.0], [4.0]], dtype=np.float32), np.array([1.0, 3.0]))
    array([3.])
    """
    total = np.zeros(updates_NP.shape[1])
    for update_P, weight in zip(updates_NP, weights_N / weights_N.sum(), strict=True):
        total += weight * update_P.astype(np.float64)
    return total


def coordinate_median(updates_NP: NDArray[np.float32], weights_N: Floats) -> Floats:
    """The median of each coordinate, every site alike.

    A minority of sites cannot move a coordinate beyond the values of the others (Yin et al. 2018,
    definition 1). Weights are not used: a hostile site would choose its own.
    """
    return np.median(updates_NP.astype(np.float64), axis=0)


def trimmed_mean(fraction: float) -> Combine:
    """The mean of each coordinate without the `fraction` of largest and of smallest values.

    Source: Yin et al. 2018, definition 2. With fewer sites than 1 / fraction, one value is trimmed
    at each end where at least three sites trained the block, because trimming none would defend
    against nobody; over one or two sites it is the mean.
    """

    def combine(updates_NP: NDArray[np.float32], weights_N: Floats) -> Floats:
        num_sites = len(updates_NP)
        num_trimmed = max(int(fraction * num_sites), 1 if num_sites >= 3 and fraction > 0 else 0)
        ordered_NP = np.sort(updates_NP.astype(np.float64), axis=0)
        kept_NP: Floats = ordered_NP[num_trimmed : num_sites - num_trimmed]
        return np.asarray(kept_NP.mean(axis=0))

    return combine


def combine_of(name: str, trimmed_fraction: float) -> Combine:
    """The combination that a study's strategy names."""
    combines: dict[str, Combine] = {
        "mean": weighted_mean,
        "median": coordinate_median,
        "trimmed_mean": trimmed_mean(trimmed_fraction),
    }
    return combines[name]
