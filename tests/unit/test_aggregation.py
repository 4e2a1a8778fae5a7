"""Aggregation block by block: by hand, against Flower and SciPy, and in any order."""

import random
from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import trim_mean

from common.arrays import Arrays
from common.wire import arrays_to_record
from server.aggregation import (
    Combine,
    SiteUpdate,
    add_to_parameters,
    aggregate,
    combine_of,
    coordinate_median,
    trimmed_mean,
    weighted_mean,
)

LABS, IMAGING, SHARED = "encoders.labs.weight", "encoders.imaging.weight", "fusion.merge.bias"
HEAD = "heads.event.linear.bias"


def _site(
    site: str, counts: Mapping[str, int], labs: float, imaging: float, shared: float
) -> SiteUpdate:
    named = {
        LABS: np.full((2, 1), labs),
        IMAGING: np.full(3, imaging),
        SHARED: np.full(1, shared),
    }
    return SiteUpdate(site=site, update=Arrays.pack(named), counts=counts)


def _all(count: int) -> dict[str, int]:
    return {"patients": count, "labs": count, "imaging": count}


def _combined(
    updates: list[SiteUpdate], combine: Combine = weighted_mean, *, equal_weights: bool = False
) -> dict[str, NDArray[np.floating]]:
    return aggregate(updates, combine, equal_weights=equal_weights).update.unpack()


def test_two_sites_worked_by_hand() -> None:
    # 1 patient with an update of 0 and 3 with 4: (1 · 0 + 3 · 4) / 4 = 3.
    found = _combined([_site("a", _all(1), 0, 0, 0), _site("b", _all(3), 4, 4, 4)])
    assert found[LABS].tolist() == [[3.0], [3.0]]
    assert found[IMAGING].tolist() == [3.0, 3.0, 3.0]
    assert found[SHARED].tolist() == [3.0]


def test_every_block_has_its_own_weights() -> None:
    # labs: 10 · 1 and 30 · 5, over 40: 4. Imaging: 6 · 1 and 2 · 5, over 8: 2.
    # The fusion is weighted by all patients: 20 · 1 and 60 · 5, over 80: 4.
    a = _site("a", {"patients": 20, "labs": 10, "imaging": 6}, 1, 1, 1)
    b = _site("b", {"patients": 60, "labs": 30, "imaging": 2}, 5, 5, 5)
    found = _combined([a, b])
    assert found[LABS].ravel().tolist() == [4.0, 4.0]
    assert found[IMAGING].tolist() == [2.0, 2.0, 2.0]
    assert found[SHARED].tolist() == [4.0]


def test_a_head_is_weighted_by_the_patients_whose_outcome_is_known() -> None:
    # (2 · 1 + 30 · 9) / 32 = 8.5; the fusion (20 · 1 + 60 · 9) / 80 = 7. Nobody's outcome is known
    # at c, so it does not touch the head, whatever its update says.
    def site(name: str, num_patients: int, num_known: int, value: float) -> SiteUpdate:
        update = Arrays.pack({HEAD: np.full(1, value), SHARED: np.full(1, value)})
        counts = {"patients": num_patients, "event": num_known}
        return SiteUpdate(site=name, update=update, counts=counts)

    a, b = site("a", 20, 2, 1.0), site("b", 60, 30, 9.0)
    found = _combined([a, b])
    assert (found[HEAD].tolist(), found[SHARED].tolist()) == ([8.5], [7.0])
    found = _combined([a, b, site("c", 80, 0, 999.0)])
    assert found[HEAD].tolist() == [8.5]
    assert found[SHARED].tolist() == [503.0]  # (20 · 1 + 60 · 9 + 80 · 999) / 160


def test_a_site_without_a_scanner_does_not_touch_the_image_encoder() -> None:
    # Imaging: a (1 patient, 2) and b (3 patients, 6): 5. c has none, whatever its update says.
    a, b = _site("a", _all(1), 2, 2, 2), _site("b", _all(3), 6, 6, 6)
    for counts in ({"patients": 4, "labs": 4, "imaging": 0}, {"patients": 4, "labs": 4}):
        found = _combined([a, b, _site("c", counts, 1, 999, 1)])
        assert found[IMAGING].tolist() == [5.0, 5.0, 5.0]
        assert found[SHARED].tolist() == [3.0]  # (1 · 2 + 3 · 6 + 4 · 1) / 8


def test_a_block_that_nobody_trained_has_an_update_of_exactly_zero() -> None:
    counts = {"patients": 5, "labs": 5, "imaging": 0}
    combined = aggregate(
        [_site(name, counts, 1, 999, 1) for name in "ab"], weighted_mean, equal_weights=False
    )
    assert combined.update.unpack()[IMAGING].tolist() == [0.0, 0.0, 0.0]
    assert combined.trained_P.tolist() == [True, True, False, False, False, True]


def test_equal_weights_count_every_site_that_trained_alike() -> None:
    sites = [
        _site("a", _all(1), 0, 0, 0),
        _site("b", _all(999), 3, 4, 3),
        _site("c", {"patients": 5, "labs": 5, "imaging": 0}, 6, 100, 6),
    ]
    found = _combined(sites, equal_weights=True)
    assert found[LABS].ravel().tolist() == [3.0, 3.0]
    assert found[IMAGING].tolist() == [2.0, 2.0, 2.0]


def test_a_large_block_is_combined_in_pieces_that_change_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    sites = [
        SiteUpdate(
            site=name,
            update=Arrays.pack({"fusion.gate": generator.normal(size=(10, 7))}),
            counts={"patients": count},
        )
        for name, count in {"a": 3, "b": 5, "c": 8}.items()
    ]
    whole = aggregate(sites, weighted_mean, equal_weights=False)
    widths: list[int] = []

    def watched(updates_NP: NDArray[np.float32], weights_N: NDArray[np.float64]):
        widths.append(updates_NP.shape[1])
        return weighted_mean(updates_NP, weights_N)

    monkeypatch.setattr("server.aggregation._PIECE", 16)
    cut = aggregate(sites, watched, equal_weights=False)
    assert (cut.update, widths) == (whole.update, [16, 16, 16, 16, 6])
    assert cut.trained_P.all()


def test_no_updates_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="one update or more, found none"):
        aggregate([], weighted_mean, equal_weights=False)


@st.composite
def cohorts(
    draw: st.DrawFn, *, homogeneous: bool = False, cancelling: bool = False
) -> list[SiteUpdate]:
    """One to six sites; `homogeneous` have all granularities, `cancelling` huge updates."""
    num_sites = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sites = []
    for n in range(num_sites):
        counts = draw(st.fixed_dictionaries(dict.fromkeys(_all(0), st.integers(0, 10**6))))
        update = rng.choice([1e20, -1e20, 1.0], size=6) if cancelling else rng.normal(size=6)
        named = {LABS: update[:2].reshape(2, 1), IMAGING: update[2:5], SHARED: update[5:]}
        sites.append(
            SiteUpdate(
                site=f"site-{n}",
                update=Arrays.pack(named),
                counts=_all(1 + counts["patients"]) if homogeneous else counts,
            )
        )
    return sites


COMBINES = ["mean", "median", "trimmed_mean"]


# In floats, 1e20 + 1 - 1e20 is 0 and 1e20 - 1e20 + 1 is 1.
@given(
    cohorts(cancelling=True),
    st.sampled_from(COMBINES),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_order_of_sites_changes_no_bit(
    sites: list[SiteUpdate], name: str, equal_weights: bool, rng: random.Random
) -> None:
    shuffled = rng.sample(sites, len(sites))
    one, other = (
        aggregate(some, combine_of(name, 0.2), equal_weights=equal_weights)
        for some in (sites, shuffled)
    )
    assert one.update == other.update
    assert one.trained_P.tolist() == other.trained_P.tolist()


@given(cohorts(homogeneous=True))
def test_the_mean_is_flowers_where_all_sites_have_everything(sites: list[SiteUpdate]) -> None:
    records = [
        RecordDict(
            {
                "arrays": arrays_to_record(site.update),
                "metrics": MetricRecord({"num-examples": site.counts["patients"]}),
            }
        )
        for site in sites
    ]
    flowers: ArrayRecord = aggregate_arrayrecords(records, "num-examples")
    for name, value in _combined(sites).items():
        np.testing.assert_allclose(value, flowers[name].numpy(), rtol=1e-5, atol=1e-6)


@given(cohorts(), st.sampled_from(COMBINES))
def test_the_result_lies_between_the_sites_that_trained(sites: list[SiteUpdate], name: str) -> None:
    found = _combined(sites, combine_of(name, 0.2))
    for block, owner in ((LABS, "labs"), (IMAGING, "imaging"), (SHARED, "patients")):
        trained = [s.update.unpack()[block] for s in sites if s.counts[owner]]
        trained = trained or [np.zeros_like(found[block])]
        assert (found[block] >= np.min(trained, axis=0) - 1e-6).all()
        assert (found[block] <= np.max(trained, axis=0) + 1e-6).all()


updates = st.tuples(st.integers(1, 25), st.integers(0, 2**32)).map(
    lambda drawn: np.random.default_rng(drawn[1]).normal(size=(drawn[0], 4)).astype(np.float32)
)


def _weights(updates_NP: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.arange(1.0, 1 + len(updates_NP))


@given(updates)
def test_the_mean_is_numpys_weighted_average(updates_NP: NDArray[np.float32]) -> None:
    expected = np.average(updates_NP.astype(np.float64), axis=0, weights=_weights(updates_NP))
    np.testing.assert_allclose(weighted_mean(updates_NP, _weights(updates_NP)), expected, rtol=1e-9)


@given(updates)
def test_the_median_is_numpys_and_knows_no_weights(updates_NP: NDArray[np.float32]) -> None:
    expected = np.median(updates_NP.astype(np.float64), axis=0)
    np.testing.assert_array_equal(coordinate_median(updates_NP, _weights(updates_NP)), expected)


@given(updates, st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49]))
def test_the_trimmed_mean_is_scipys_where_it_trims(
    updates_NP: NDArray[np.float32], fraction: float
) -> None:
    num_sites = len(updates_NP)
    # SciPy trims none of few sites; there, one of three or more goes at each end.
    cut = fraction
    if fraction > 0 and int(fraction * num_sites) == 0 and num_sites >= 3:
        cut = 1.5 / num_sites if num_sites > 3 else 1.0 / 3 + 1e-9
    expected = trim_mean(updates_NP.astype(np.float64), cut, axis=0)
    found = trimmed_mean(fraction)(updates_NP, _weights(updates_NP))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_the_trimmed_mean_worked_by_hand() -> None:
    # Of five, a fifth is one at each end: (2 + 3 + 4) / 3. Coordinates are trimmed apart.
    updates_NP = np.array([[1, 50], [2, 40], [3, 30], [4, 20], [99, 10]], dtype=np.float32)
    assert trimmed_mean(0.2)(updates_NP, np.ones(5)).tolist() == [3.0, 30.0]


@pytest.mark.parametrize(("num_sites", "expected"), [(1, 0.0), (2, 0.5), (3, 1.0), (4, 1.5)])
def test_one_or_two_sites_are_averaged_and_three_are_trimmed(
    num_sites: int, expected: float
) -> None:
    updates_NP = np.arange(num_sites, dtype=np.float32).reshape(-1, 1)
    if num_sites >= 3:
        updates_NP[-1] = 1e6
    assert trimmed_mean(0.2)(updates_NP, np.ones(num_sites)).tolist() == [expected]


@given(
    updates.filter(lambda u: len(u) >= 3),
    st.sampled_from(["median", "trimmed_mean"]),
    st.sampled_from([-3e38, -1.0, 1.0, 3e38]),
    st.integers(0, 24),
)
def test_a_hostile_site_cannot_move_the_result_beyond_the_others(
    updates_NP: NDArray[np.float32], name: str, hostile: float, place: int
) -> None:
    place %= len(updates_NP)
    updates_NP[place] = hostile
    others_NP = np.delete(updates_NP, place, axis=0)
    found = combine_of(name, 0.2)(updates_NP, np.ones(len(updates_NP)))
    slack = 1e-12
    assert (found >= others_NP.min(axis=0) - slack).all()
    assert (found <= others_NP.max(axis=0) + slack).all()


def test_the_mean_does_not_withstand_a_hostile_site() -> None:
    updates_NP = np.array([[1.0], [1.0], [1e6]], dtype=np.float32)
    assert weighted_mean(updates_NP, np.ones(3))[0] > 1e5


def test_only_the_parameters_of_the_manifest_are_moved() -> None:
    state = Arrays.pack({"scale": np.full(2, 0.1), LABS: np.ones((2, 1)), HEAD: np.ones(1)})
    update = Arrays.pack({LABS: np.zeros((2, 1)), HEAD: np.zeros(1)})
    moved = add_to_parameters(state, update.manifest, np.array([0.5, 0.25, -1.0])).unpack()
    assert moved["scale"].tobytes() == state.unpack()["scale"].tobytes()
    assert moved[LABS].ravel().tolist() == [1.5, 1.25]
    assert moved[HEAD].tolist() == [0.0]
    assert state.unpack()[LABS].ravel().tolist() == [1.0, 1.0]


def test_parameters_are_found_by_name_and_not_by_place() -> None:
    state = Arrays.pack({HEAD: np.zeros(1), LABS: np.zeros((2, 1))})
    update = Arrays.pack({LABS: np.zeros((2, 1)), HEAD: np.zeros(1)})
    moved = add_to_parameters(state, update.manifest, np.array([1.0, 2.0, 3.0]))
    assert moved.flat.tolist() == [3.0, 1.0, 2.0]


def test_a_move_is_rounded_once_after_it_was_added() -> None:
    # A little more than half of the last digit of 1 in float32; as a float32 it is exactly half,
    # and 1 would stay 1.
    state = Arrays.pack({HEAD: np.ones(1)})
    moved = add_to_parameters(state, state.manifest, np.array([2.0**-24 + 2.0**-50]))
    assert moved.flat[0] == 1 + 2.0**-23
