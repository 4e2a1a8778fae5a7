"""Privacy of sites: sensitivity, noise, what may not depend on who answers, and what it costs."""

import math
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from common.arrays import Arrays, Block, Manifest, size_of
from common.errors import RunError, StudyError
from common.privacy.mechanisms import NoiseSource
from common.privacy.sections import SitePrivacy
from server.aggregation import SiteUpdate
from server.site_privacy import (
    DRAWN,
    STARTED,
    SiteMechanism,
    SitePlan,
    clipped_sum,
    offered_by,
    site_history,
    site_plan_of,
)

LABS, IMAGING, SHARED = "encoders.labs.weight", "encoders.imaging.weight", "fusion.merge.bias"
MANIFEST: Manifest = (
    Block(name=LABS, shape=(2, 1)),
    Block(name=IMAGING, shape=(3,)),
    Block(name=SHARED, shape=(1,)),
)
EVERYTHING = {"patients": 40, "labs": 40, "imaging": 40}
NO_SCANNER = {"patients": 30, "labs": 30, "imaging": 0}
FOUR = {"patients": 4, "labs": 4, "imaging": 4}


def _plan(noise_multiplier: float = 1.0, clip: float = 1.0, max_draws: int = 1000) -> SitePlan:
    return SitePlan(
        noise_multiplier=noise_multiplier, max_update_norm=clip, delta=1e-5, max_draws=max_draws
    )


def _site(
    name: str, *values: float, counts: Mapping[str, int] = EVERYTHING, manifest: Manifest = MANIFEST
) -> SiteUpdate:
    flat = np.resize(np.array(values, dtype=np.float32), size_of(manifest))
    return SiteUpdate(site=name, update=Arrays(manifest=manifest, flat=flat), counts=counts)


def _mechanism(
    plan: SitePlan | None = None,
    *,
    offered: Mapping[str, int] = FOUR,
    manifest: Manifest = MANIFEST,
    min_sites_per_block: int = 2,
    seed: int = 1,
    num_draws: int = 0,
    record: Callable[[int], None] = lambda _: None,
) -> SiteMechanism:
    return SiteMechanism(
        plan or _plan(),
        manifest=manifest,
        offered=offered,
        min_sites_per_block=min_sites_per_block,
        source=NoiseSource.seeded(seed),
        num_draws=num_draws,
        record=record,
    )


def _numerator(updates: Sequence[SiteUpdate], clip: float) -> NDArray[np.float64]:
    """What two mechanisms with the same noise differ by: the sum before the noise, times 1."""
    plan = _plan(noise_multiplier=1e-12, clip=clip)
    ones = dict.fromkeys(FOUR, 1)
    mechanism = _mechanism(plan, offered=ones, min_sites_per_block=1)
    return mechanism.combine(updates).combined.update.flat.astype(np.float64)


ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)
UPDATES = st.lists(ANY_FLOAT, min_size=6, max_size=6)
COUNTS = st.sampled_from([EVERYTHING, NO_SCANNER, {"patients": 10**5, "labs": 1, "imaging": 7}])
COHORTS = st.lists(st.tuples(UPDATES, COUNTS), max_size=5).map(
    lambda drawn: [_site(f"site-{n}", *u, counts=c) for n, (u, c) in enumerate(drawn)]
)
CLIPS = st.sampled_from([1e-3, 0.5, 1.0, 30.0])


@given(COHORTS, UPDATES, COUNTS, CLIPS)
@pytest.mark.filterwarnings("error")
def test_adding_or_removing_a_site_moves_the_sum_by_at_most_the_clip(
    others: list[SiteUpdate], update: list[float], counts: Mapping[str, int], clip: float
) -> None:
    added = _site("added", *update, counts=counts)
    moved = _numerator([*others, added], clip) - _numerator(others, clip)
    assert np.linalg.norm(moved) <= clip * (1 + 1e-5)  # the results are rounded to 32 bits


@given(COHORTS, UPDATES, UPDATES, CLIPS)
def test_replacing_the_update_of_a_site_moves_the_sum_by_at_most_twice_the_clip(
    others: list[SiteUpdate], one: list[float], other: list[float], clip: float
) -> None:
    moved = _numerator([*others, _site("it", *one)], clip) - _numerator(
        [*others, _site("it", *other)], clip
    )
    assert np.linalg.norm(moved) <= 2 * clip * (1 + 1e-5)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=50), CLIPS)
def test_no_vector_is_longer_than_the_clip_to_the_last_bit(
    values: list[float], clip: float
) -> None:
    clipped_P = clipped_sum([np.array(values)], clip, len(values))
    assert math.fsum(value * value for value in clipped_P) <= clip * clip


def test_a_site_that_is_within_the_clip_is_not_scaled() -> None:
    found = _numerator([_site("a", 0.25, 0, 0, 0, 0, -0.5)], clip=1.0)
    np.testing.assert_allclose(found, [0.25, 0, 0, 0, 0, -0.5], atol=1e-9)


def test_clipping_worked_by_hand() -> None:
    # (3, 4) has the norm 5 and becomes (.6, .8); of two such and one of (0, -.5): (1.2, 1.1).
    long, short = _site("a", 3, 4, 0, 0, 0, 0), _site("b", 0, -0.5, 0, 0, 0, 0)
    found = _numerator([long, short, _site("c", 30, 40, 0, 0, 0, 0)], clip=1.0)
    np.testing.assert_allclose(found, [1.2, 1.1, 0, 0, 0, 0], atol=1e-6)


def test_the_whole_update_is_clipped_and_not_each_block() -> None:
    # Six ones have the norm sqrt(6); clipped block by block, the sum would have the norm sqrt(3).
    found = _numerator([_site("a", 1.0)], clip=1.0)
    np.testing.assert_allclose(found, np.full(6, 1 / math.sqrt(6)), rtol=1e-6)


def test_every_site_counts_alike_whatever_its_size() -> None:
    small = {"patients": 1, "labs": 1, "imaging": 1}
    large = {"patients": 10**5, "labs": 10**5, "imaging": 10**5}
    one = _numerator([_site("a", 0.1, counts=small), _site("b", 0.3, counts=large)], clip=1.0)
    other = _numerator([_site("a", 0.1, counts=large), _site("b", 0.3, counts=small)], clip=1.0)
    assert one.tolist() == other.tolist()
    np.testing.assert_allclose(one, np.full(6, 0.4), rtol=1e-6)


def test_a_site_does_not_touch_the_encoder_of_what_it_lacks() -> None:
    # Weight decay moves an encoder without patients: that is no update, and takes nothing of the
    # clip. (3, 4) in labs is clipped to (.6, .8), as if imaging were zero.
    found = _numerator([_site("a", 3, 4, 999, 999, 999, 0, counts=NO_SCANNER)], clip=1.0)
    np.testing.assert_allclose(found, [0.6, 0.8, 0, 0, 0, 0], atol=1e-6)


@given(COHORTS, st.randoms(use_true_random=False))
def test_the_order_of_sites_changes_no_bit(sites: list[SiteUpdate], rng: random.Random) -> None:
    shuffled = rng.sample(sites, len(sites))
    one, other = (_mechanism().combine(some) for some in (sites, shuffled))
    assert one.combined.update == other.combined.update
    assert (one.clipped, one.dropped) == (other.clipped, other.dropped)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_site_that_is_not_finite_counts_as_zero(bad: float) -> None:
    good = _site("b", 0.25)
    found = _mechanism().combine([_site("a", 0.1, bad), good])
    without = _mechanism().combine([good])
    assert found.combined.update == without.combined.update
    assert (found.dropped, without.dropped) == (("a",), ())
    assert found.combined.update.is_finite()


def test_the_clipped_sites_are_named() -> None:
    found = _mechanism().combine([_site("c", 9.0), _site("a", 9.0), _site("b", 0.1)])
    assert found.clipped == ("a", "c")


# A sample of 60,000 is told from one of two thirds, or three halves, of its spread.
WIDE: Manifest = (Block(name=SHARED, shape=(60_000,)),)


def _noise(updates: Sequence[SiteUpdate], *, seed: int = 1) -> NDArray[np.float64]:
    """Of a sum of zeros, and of 7 sites that offer the block: 7 times what comes out."""
    mechanism = _mechanism(
        _plan(noise_multiplier=1.3, clip=0.7), offered={"patients": 7}, manifest=WIDE, seed=seed
    )
    return 7 * mechanism.combine(updates).combined.update.flat.astype(np.float64)


@pytest.mark.parametrize("num_sites", [0, 1, 7])
def test_the_noise_has_the_claimed_spread_however_many_sites_answer(num_sites: int) -> None:
    zeros = [_site(f"site-{n}", 0.0, manifest=WIDE) for n in range(num_sites)]
    noise_P, sd = _noise(zeros), 1.3 * 0.7
    assert kstest(noise_P, norm(scale=sd).cdf).pvalue > 0.01
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise_P, norm(scale=sd * wrong).cdf).pvalue < 1e-9
    assert noise_P.std() == pytest.approx(sd, rel=0.01)


def test_every_round_and_every_parameter_has_noise_of_its_own() -> None:
    mechanism = _mechanism(manifest=WIDE)
    first, second = (mechanism.combine([]).combined.update.flat for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02


@given(st.sets(st.integers(0, 3)))
def test_which_parameters_move_does_not_depend_on_who_answers(answering: set[int]) -> None:
    roster = [EVERYTHING, EVERYTHING, NO_SCANNER, NO_SCANNER]
    mechanism = _mechanism(offered=offered_by(roster))
    found = mechanism.combine([_site(f"site-{n}", 0.1, counts=roster[n]) for n in answering])
    assert found.combined.trained_P.all()
    assert (found.combined.update.flat != 0).all()


def test_a_block_that_too_few_enrolled_sites_offer_never_moves() -> None:
    mechanism = _mechanism(offered=offered_by([EVERYTHING, NO_SCANNER, NO_SCANNER]))
    found = mechanism.combine([_site("a", 3, 4, 999, 999, 999, 0), _site("b", 0.0)])
    assert found.combined.trained_P.tolist() == [True, True, False, False, False, True]
    assert found.combined.update.unpack()[IMAGING].tolist() == [0.0, 0.0, 0.0]
    # What cannot move takes nothing of the clip.
    assert _divided_difference(found.combined.update, mechanism) == pytest.approx([0.6, 0.8])


def _divided_difference(update: Arrays, mechanism: SiteMechanism) -> list[float]:
    """What the sites put into labs: the same noise is taken away, and the three sites' divisor."""
    again = _mechanism(offered=offered_by([EVERYTHING, NO_SCANNER, NO_SCANNER]))
    assert again.plan == mechanism.plan
    noise = again.combine([]).combined.update.unpack()[LABS]
    return (3 * (update.unpack()[LABS] - noise)).ravel().tolist()


def test_the_divisor_is_of_the_enrolled_sites_and_not_of_those_that_answer() -> None:
    one = _mechanism().combine([_site("a", 0.4)]).combined.update.flat
    noise = _mechanism().combine([]).combined.update.flat
    np.testing.assert_allclose(one - noise, np.full(6, 0.4 / 4), atol=1e-6)


def test_a_site_that_enrols_late_is_summed_and_changes_no_divisor() -> None:
    five = [_site(name, 0.2) for name in "abcde"]
    noise = _mechanism().combine([]).combined.update.flat
    found = _mechanism().combine(five).combined.update.flat
    np.testing.assert_allclose(found - noise, np.full(6, 5 * 0.2 / 4), atol=1e-6)


def test_noise_is_not_that_of_numpys_or_pythons_global_seed() -> None:
    found = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        mechanism = SiteMechanism(
            _plan(),
            manifest=MANIFEST,
            offered=FOUR,
            min_sites_per_block=2,
            source=NoiseSource.secure(),
            num_draws=0,
            record=lambda _: None,
        )
        found.append(mechanism.combine([]).combined.update.flat.tolist())
    assert found[0] != found[1]


def test_a_site_that_comes_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="one update of each site, found two of one"):
        _mechanism().combine([_site("a", 1.0), _site("a", 1.0)])


def test_an_update_of_another_manifest_is_an_error() -> None:
    with pytest.raises(ValueError, match="the model's manifest, found another"):
        _mechanism().combine([_site("a", 1.0, manifest=WIDE)])


def test_a_draw_is_recorded_before_it_is_made() -> None:
    disk = iter([OSError("full"), None])

    def record(_: int) -> None:
        fault = next(disk)
        if fault is not None:
            raise fault

    mechanism = _mechanism(record=record)
    with pytest.raises(OSError, match="full"):
        mechanism.combine([_site("a", 1.0)])
    # The source has given nothing away: its next noise is its first.
    first = _mechanism().combine([]).combined.update
    assert mechanism.combine([]).combined.update == first


def test_a_draw_that_the_plan_does_not_hold_is_not_made() -> None:
    recorded: list[int] = []
    mechanism = _mechanism(_plan(max_draws=3), num_draws=1, record=recorded.append)
    for _ in range(2):
        assert not mechanism.is_spent
        mechanism.combine([])
    assert mechanism.is_spent
    with pytest.raises(RunError, match="at most 3 draws of noise"):
        mechanism.combine([])
    assert recorded == [2, 3]


def test_a_killed_run_is_charged_for_every_draw_that_its_journal_holds() -> None:
    started: dict[str, object] = {"event": STARTED, "offered": {"patients": 3}}
    events: list[dict[str, object]] = [
        {"event": "run_started"},
        started,
        {"event": DRAWN, "round": 1, "draw": 1},
        {"event": "checkpoint", "round": 1},
        {"event": DRAWN, "round": 2, "draw": 2},
        {"event": "run_resumed"},
        {"event": STARTED, "offered": {"patients": 2}},
        {"event": DRAWN, "round": 2, "draw": 3},
    ]
    history = site_history(events)
    assert (history.num_draws, history.offered) == (3, {"patients": 3})
    assert site_history([]).num_draws == 0
    assert site_history([]).offered == {}


def test_epsilon_grows_with_the_draws_and_not_with_the_rounds() -> None:
    mechanism = _mechanism(_plan(noise_multiplier=5.0), num_draws=4)
    assert mechanism.epsilon == mechanism.plan.epsilon_after(4)
    mechanism.combine([])
    assert mechanism.epsilon == mechanism.plan.epsilon_after(5) > mechanism.plan.epsilon_after(4)
    assert mechanism.plan.epsilon_after(0) == 0.0


def _exact_epsilon(noise_multiplier: float, count: int, delta: float) -> float:
    """Of the Gaussian mechanism, in closed form (Balle and Wang 2018, theorem 8)."""
    mu = math.sqrt(count) / noise_multiplier

    def excess(epsilon: float) -> float:
        one = norm.logcdf(mu / 2 - epsilon / mu)
        other = epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
        return float(math.exp(one) - math.exp(other)) - delta

    return float(brentq(excess, 0.0, 500.0, xtol=1e-12))


@pytest.mark.parametrize("num_draws", [1, 10, 100])
@pytest.mark.parametrize("noise_multiplier", [2.0, 11.797])
def test_the_cost_is_that_of_the_gaussian_mechanism(
    noise_multiplier: float, num_draws: int
) -> None:
    exact = _exact_epsilon(noise_multiplier, num_draws, 1e-5)
    found = _plan(noise_multiplier=noise_multiplier).epsilon_after(num_draws)
    assert exact <= found <= exact * 1.02
    if (noise_multiplier, num_draws) == (11.797, 10):
        assert exact == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("epsilon", "delta", "num_rounds", "spare_rounds"),
    [(0.5, 1e-6, 1, 0), (1.0, 1e-3, 10, 1), (3.0, 1e-6, 60, 2), (40.0, 1e-3, 7, 1)],
)
def test_the_whole_run_costs_at_most_what_was_asked_for_and_little_less(
    epsilon: float, delta: float, num_rounds: int, spare_rounds: int
) -> None:
    privacy = SitePrivacy(mode="site", epsilon=epsilon, delta=delta)
    plan = site_plan_of(privacy, num_rounds=num_rounds, spare_rounds=spare_rounds)
    assert plan.max_draws == num_rounds + spare_rounds
    exact = _exact_epsilon(plan.noise_multiplier, plan.max_draws, delta)
    assert 0.98 * epsilon <= plan.epsilon <= epsilon
    assert exact <= plan.epsilon


def test_an_epsilon_that_no_noise_can_keep_is_an_error() -> None:
    privacy = SitePrivacy(mode="site", epsilon=1e-9, delta=1e-12)
    with pytest.raises(StudyError, match="found that it is not"):
        site_plan_of(privacy, num_rounds=100)


def test_a_given_noise_multiplier_is_taken_as_it_is() -> None:
    privacy = SitePrivacy(mode="site", noise_multiplier=2.5, delta=1e-5, max_update_norm=3.0)
    plan = site_plan_of(privacy, num_rounds=9, spare_rounds=1)
    assert plan == SitePlan(noise_multiplier=2.5, max_update_norm=3.0, delta=1e-5, max_draws=10)
    assert plan.charges_after(4)[0].event.count == 4  # type: ignore[union-attr]
    assert plan.charges_after(4)[0].event.sample_rate == 1.0  # type: ignore[union-attr]
