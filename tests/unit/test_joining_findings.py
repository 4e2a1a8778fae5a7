"""Findings from made-up numbers: gains worked by hand, verdicts, what is judged together."""

from dataclasses import replace

import numpy as np
import pytest

from common.study import Study
from simulations.joining.compare import findings_of
from simulations.joining.findings import MEAN, NOT_JOINED, OTHERS, Difference, Findings
from simulations.joining.method import how_measured
from simulations.joining.words import hospital_sentence, overall
from tests.round.mixed_hospitals import mixed_study
from tests.unit.joining_cases import ENOUGH, PEOPLE, all_pieces, everybody, measured, piece_of

STUDY = mixed_study("event")


@pytest.fixture(scope="module")
def findings() -> Findings:
    return findings_of(all_pieces(), STUDY)


def joining_at(site: str, findings: Findings) -> Difference:
    (found,) = findings.of("joining", scope=site)
    return found


@pytest.mark.parametrize(
    ("site", "before", "after", "verdict"),
    [
        ("north", 0.70, 0.80, "better"),
        # Over the seeds, south has .800, .804 and .808 alone.
        ("south", 0.804, 0.724, "worse"),
        ("west", 0.75, 0.75, "unclear"),
        ("isle", 0.5, 0.9, "untold"),
    ],
)
def test_a_hospital_has_its_gain_and_what_its_interval_says(
    findings: Findings, site: str, before: float, after: float, verdict: str
) -> None:
    found = joining_at(site, findings)
    assert (found.before, found.after) == (pytest.approx(before), pytest.approx(after))
    assert found.gain.value == pytest.approx(after - before)
    assert found.verdict == verdict
    assert (found.gain.low is None) == (site == "isle")


def test_a_hospital_with_too_few_patients_stays_with_its_reason_and_is_in_no_mean(
    findings: Findings,
) -> None:
    assert joining_at("isle", findings).reason == PEOPLE["isle"].too_few
    mean = joining_at(MEAN, findings)
    assert mean.sites == ("north", "south", "west")
    assert mean.gain.value == pytest.approx((0.10 - 0.08 + 0) / 3)
    assert mean.p_holm is None


def test_one_of_60_hospitals_that_gains_stands_when_all_are_judged_together() -> None:
    people = {f"h{n}": ENOUGH for n in range(60)}
    told = {"local only": dict.fromkeys(people, 0.7), "federated": dict.fromkeys(people, 0.7)}
    told["federated"]["h7"] = 0.9
    findings = findings_of({piece_of(0): measured(told, people)}, STUDY)
    assert findings.num_resamples == 6000
    assert [d.scope for d in findings.of("joining") if d.stands] == ["h7"]


def test_hospitals_with_an_interval_are_judged_together(findings: Findings) -> None:
    told = [joining_at(site, findings) for site in ("north", "south", "west")]
    assert [d.num_compared for d in told] == [3, 3, 3]
    assert [d.stands for d in told] == [True, True, False]
    smallest = min(d.gain.p or 1.0 for d in told)
    assert min(d.p_holm or 1.0 for d in told) == pytest.approx(3 * smallest)
    assert joining_at("isle", findings).p_holm is None


def test_to_the_hospital_that_is_left_out_it_is_the_others_model(findings: Findings) -> None:
    # North was left out: .60 there, beside .70 alone and .80 joined.
    (receiving,) = findings.of("receiving", scope="north")
    (taking_part,) = findings.of("taking part", scope="north")
    assert receiving.gain.value == pytest.approx(-0.10)
    assert taking_part.gain.value == pytest.approx(0.20)
    level = findings.level(NOT_JOINED, "north")
    assert level is not None
    assert level.estimate.value == pytest.approx(0.60)
    (never,) = findings.of("receiving", scope="west")
    assert (never.gain.value, never.verdict) == (None, "untold")
    assert never.reason == "the others' model: it is undefined"


def test_what_a_hospital_brings_is_the_mean_gain_of_the_others(findings: Findings) -> None:
    (mean,) = findings.of("hospital", scope=OTHERS)
    # South .724 - .62, west .75 - .65; not isle, and not north itself.
    assert mean.sites == ("south", "west")
    assert mean.gain.value == pytest.approx((0.104 + 0.10) / 2)
    assert mean.verdict == "better"
    assert findings.of("hospital", scope="north") == []


def test_what_a_granularity_brings_is_the_mean_over_hospitals_that_have_anything_else(
    findings: Findings,
) -> None:
    (mean,) = findings.of("granularity", scope=MEAN)
    assert mean.sites == ("north", "south")
    assert mean.gain.value == pytest.approx((0.0 + 0.004) / 2)
    (west,) = findings.of("granularity", scope="west")
    assert west.reason == "without granularity imaging: it has nothing but imaging"
    assert findings.failures == [
        "without granularity imaging, west: it has nothing but imaging (3 of 3 seeds)"
    ]


def test_a_smaller_error_is_a_gain() -> None:
    told = {"local only": {"north": 5.0, "south": 3.0}, "federated": {"north": 4.0, "south": 3.5}}
    people = {"north": ENOUGH, "south": ENOUGH}
    pieces = {piece_of(seed): measured(told, people) for seed in range(2)}
    found = findings_of(pieces, mixed_study("stay"))
    assert joining_at("north", found).gain.value == pytest.approx(1.0)
    assert joining_at("south", found).verdict == "worse"
    told_north = hospital_sentence(joining_at("north", found), found)
    assert "joining lowers the MAE (days) from 5 to 4 (" in told_north
    assert "predictions are off by 4 days instead of 5 days on average" in told_north
    told_south = hospital_sentence(joining_at("south", found), found)
    assert "joining raises the MAE (days) from 3 to 3.5, which is worse (" in told_south


def test_a_seed_in_which_one_arm_diverged_counts_in_neither() -> None:
    pieces = all_pieces()
    base = everybody(0)
    diverged = np.full_like(base.values["federated"]["north"], np.nan)
    together = {**base.values["federated"], "north": diverged}
    alone = {
        **base.values["local only"],
        "north": base.values["local only"]["north"] - 0.1,
    }
    pieces[piece_of(0)] = replace(
        base,
        values={**base.values, "federated": together, "local only": alone},
        reasons={**base.reasons, "federated": {"north": "its training diverged"}},
    )
    found = findings_of(pieces, STUDY)
    north = joining_at("north", found)
    assert (north.gain.num_seeds, north.gain.value) == (2, pytest.approx(0.10))
    # Alone, north has .60 in the seed that is lost, and .70 in the others.
    assert (north.before, north.after) == (pytest.approx(0.70), pytest.approx(0.80))
    assert "federated, north: its training diverged (1 of 3 seeds)" in found.failures
    assert "1 of 3 trainings came to nothing." in hospital_sentence(north, found)


def test_equal_predictions_are_no_difference_shown() -> None:
    told = {"local only": {"north": 0.7}, "federated": {"north": 0.7}}
    found = findings_of({piece_of(0): measured(told, {"north": ENOUGH}, spread=0.0)}, STUDY)
    north = joining_at("north", found)
    assert (north.gain.low, north.gain.high, north.verdict) == (0.0, 0.0, "unclear")


def test_a_gain_in_a_share_of_pairs_is_1_at_most_and_a_level_between_0_and_1() -> None:
    pieces = {}
    for seed, after in enumerate((0.7, 0.99)):
        told = {"local only": {"north": 0.1}, "federated": {"north": after}}
        pieces[piece_of(seed)] = measured(told, {"north": ENOUGH})
    found = findings_of(pieces, STUDY)
    north = joining_at("north", found)
    assert (north.gain.low, north.gain.high) == (-1.0, 1.0)
    level = found.level("federated", "north")
    assert level is not None
    assert (level.estimate.low, level.estimate.high) == (0.0, 1.0)


def test_too_few_patients_are_no_failure() -> None:
    told = {"local only": {"isle": PEOPLE["isle"].too_few}, "federated": {"isle": 0.7}}
    pieces = {piece_of(0): measured(told, {"isle": PEOPLE["isle"]})}
    assert findings_of(pieces, STUDY).failures == []


def test_an_arm_that_always_fails_leaves_the_hospital_in_the_table_with_the_reason() -> None:
    told = {"local only": {"north": 0.7}, "federated": {"north": "its training ended with error"}}
    found = findings_of({piece_of(0): measured(told, {"north": ENOUGH})}, STUDY)
    north = joining_at("north", found)
    assert north.reason == "federated: its training ended with error"
    assert hospital_sentence(north, found) == (
        "For north, nothing can be said: federated: its training ended with error."
    )
    assert overall(found) == [
        "At no hospital there are enough held-out patients to say what joining brings."
    ]


def test_sentences_say_better_worse_nothing_shown_and_nothing_known(findings: Findings) -> None:
    north, south, west, isle = (
        hospital_sentence(joining_at(site, findings), findings)
        for site in ("north", "south", "west", "isle")
    )
    assert "joining raises the AUROC from 0.700 to 0.800 (95 % interval of the gain: +" in north
    assert "the model puts 80 in the right order instead of 70" in north
    assert "This stands when all 3 hospitals are judged together." in north
    assert "joining lowers the AUROC from 0.804 to 0.724, which is worse (" in south
    assert "no difference can be shown: AUROC 0.750 alone, 0.750 joined" in west
    assert "which holds 0" in west
    assert "in the right order" in west
    assert isle == (
        "For isle, nothing can be said: AUROC 0.500 alone, 0.900 joined, but 2 of 12 held-out "
        "patients are of class “yes”, and an interval takes at least 10."
    )


def test_a_verdict_that_does_not_stand_among_all_says_so() -> None:
    people = dict.fromkeys(["a", "b", "c", "d"], ENOUGH)
    alone = dict.fromkeys(people, 0.7)
    # 2.2 standard deviations of a difference: p is about .03, four times that is not below .05.
    told = {"local only": alone, "federated": {**alone, "a": 0.7 + 2.2 * 0.01 * 2**0.5}}
    found = findings_of({piece_of(0): measured(told, people)}, STUDY)
    a = joining_at("a", found)
    assert (a.verdict, a.stands) == ("better", False)
    sentence = hospital_sentence(a, found)
    assert "It does not stand when all 4 hospitals are judged together (adjusted p = " in sentence
    assert "joining is better at 0 and worse at 0" in overall(found)[1]


def test_all_hospitals_together_are_counted_by_verdict(findings: Findings) -> None:
    assert overall(findings)[0] == (
        "4 hospitals were compared, each joined with itself alone. By its own 95 % interval "
        "joining is better at 1 and worse at 1; at 1 no difference can be shown, and of 1 hospital "
        "nothing can be said."
    )
    assert "joining is better at 1 and worse at 1 of these" in overall(findings)[1]
    assert overall(findings)[2].startswith("As the mean of 3 hospitals, joined rather than alone")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("stage", "one of a class and one not of it (mean over classes)"),
        ("death", "of whom it is known who had the event first"),
    ],
)
def test_pairs_are_told_for_every_kind_of_outcome(outcome: str, words: str) -> None:
    study: Study = mixed_study(outcome)
    found = findings_of(all_pieces(), study)
    for site in ("north", "west"):
        assert words in hospital_sentence(joining_at(site, found), found)


def test_one_training_is_said_to_tell_nothing_of_chance_in_training() -> None:
    found = findings_of({piece_of(0): everybody(0)}, STUDY)
    assert how_measured(found)[0].startswith("Every model was trained once")
