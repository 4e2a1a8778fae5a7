"""What the report tells as a page: all of a run, in words, and nothing invented."""

import copy
import re

import pytest

from common.errors import RefusalCode
from common.page.document import Table
from server.report.html.facts import facts_of
from server.report.html.glossary import glossary
from server.report.html.words import reason_of
from server.report.results import results_of
from tests.unit.builders import MORE_OUTCOMES, study_of
from tests.unit.report_journals import (
    GROUPED,
    OF_SITES,
    PLAIN,
    SITES,
    enrolled,
    event_of,
    page_of,
    plain_journal,
    private_journal,
    reply_of,
    start_of,
)
from tests.unit.report_pages import PAGES, Tree, text_of


def test_the_summary_says_what_was_trained_and_how_far_hospitals_are_apart() -> None:
    text = text_of("plain")
    assert (
        "One model for “Fever & falls” (small) was trained across 3 hospitals in 2 rounds" in text
    )
    assert "It predicts “event”, “stay” and “death” from" in text
    assert re.search(
        r"event: Of two patients .* guessing would be right in 50\. That is AUROC \S+, over the "
        r"held-out patients of all hospitals together, after round 2\.",
        text,
    )
    assert re.search(r"Hospital by hospital: \S+ ± \S+ over all hospitals, from \S+ to \S+\.", text)
    assert re.search(r"Before the first round it was 0\.\d{3}\.", text)
    assert "Whether a hospital gains by joining" in text


@pytest.mark.parametrize(
    ("name", "told"),
    [("just begun", "This run has not finished"), ("failed", "This run failed before its end")],
)
def test_a_run_without_an_end_says_so(name: str, told: str) -> None:
    assert told in text_of(name)
    assert "not its final model" in text_of(name)
    assert "has not finished" not in text_of("plain")


def test_parts_that_a_run_has_nothing_of_are_left_out() -> None:
    assert 'id="own-models"' in PAGES["own models"]
    assert 'id="own-models"' not in PAGES["plain"]
    for key in ("hospitals", "curves", "left"):
        assert f'id="{key}"' in PAGES["plain"]
        assert f'id="{key}"' not in PAGES["just begun"]
    assert "Nothing" not in PAGES["enrolled"].split("<main")[0]


def test_absences_are_told_in_words_with_their_rounds() -> None:
    text = text_of("plain")
    assert "south did not answer in time 0" in text
    assert "west refused: nobody there has accepted this study 1" in text
    assert "No hospital was absent" in text_of("private")


def test_every_code_of_refusal_has_words() -> None:
    for code in RefusalCode:
        assert reason_of(code) != code
    assert reason_of("something new") == "something new"


def test_what_left_is_told_by_kind_with_every_name_in_it() -> None:
    text = text_of("plain")
    names = "of event: num_patients, loss_sum, brier_sum, confusion, positives_by_score"
    assert (
        f"evaluation 3 300 B counts of patients: patients, labs, vitals, event; statistics: {names}"
        in text
    )
    assert "one update (a difference of parameters); counts of patients: patients, labs" in text
    # Per site: enrolment, two trainings and an evaluation of 100 bytes each.
    for site in SITES:
        assert f"{site} 4 400" in text


def test_a_private_run_tells_costs_and_no_number_of_patients() -> None:
    text = text_of("private")
    assert "epsilon at most 3 at delta 0.0001" in text
    assert "north 2.500 0.500 0.0001" in text
    assert "west 2.700 0.300 0.0001" in text
    # (1 + 1e-4 · e^-2.7) / (1 + e^-2.7) = 0.9370 + …, rounded up.
    assert "right at most 93.8 % of the time" in text.replace("\xa0", " ")
    assert "public weights, and no counts: patients, labs" in text
    assert "noised update" in text
    assert "90" not in re.sub(r"0\.\d+", "", text.split("Who took part")[-1].split("Privacy")[0])


def test_a_private_run_without_an_evaluation_says_why() -> None:
    page = page_of(private_journal()[:-4])
    assert "A private run is evaluated once" in page
    assert 'id="hospitals"' not in page


def test_hidden_sites_are_told_apart_from_protected_patients() -> None:
    text = text_of("private sites")
    assert "epsilon 1.235 at delta 0.001, with noise multiplier 4" in text
    assert "No patient is protected from the coordinator" in text
    assert "guess" not in text.split("Privacy")[-1].split("What left")[0]
    assert "no differential privacy" in text_of("plain")
    assert "No round has been aggregated yet." in page_of([start_of(OF_SITES)])


def test_the_model_card_lists_what_a_person_must_fill_in_and_invents_nothing() -> None:
    text = text_of("plain")
    assert "Purpose, as the study states it Fever & falls." in text
    assert "To be filled in by a person" in text
    assert "Intended use: for which decision" in text
    assert "Some hospitals lack granularities: " in text
    unnamed = study_of(study={"title": ""})
    assert "The study states none." in page_of(plain_journal(unnamed))


def test_a_hospital_that_sent_nothing_has_a_row() -> None:
    journal = copy.deepcopy(plain_journal())
    for event in journal:
        if event["event"] == "reply" and event["site"] == "south" and event["kind"] == "evaluate":
            event["metrics"] = {}
    tree = Tree(page_of(journal))
    assert "not sent" in tree.text
    assert "over 2 of 3 hospitals" in tree.text


def test_the_study_stands_in_full_and_a_resume_is_told() -> None:
    resumed = start_of(PLAIN) | {"event": "run_resumed", "round": 1}
    page = page_of([*plain_journal(), resumed, event_of("run_finished", round=2)])
    assert "local_epochs" in page
    assert "resumed at rounds</th><td>1</td>" in page


def test_averaged_rounds_are_told() -> None:
    study = study_of(outcomes=MORE_OUTCOMES, strategy={"tail_average": 0.5}, training={"rounds": 8})
    page = page_of(plain_journal(study))
    assert "last rounds whose models were averaged</th><td>4</td>" in page
    assert "the models of the last 4 of them averaged" in page
    assert "last rounds whose models were averaged</th><td>none</td>" in page_of(plain_journal())
    unfinished = [e for e in plain_journal(study) if e["event"] != "run_finished"]
    assert "models were averaged</th><td>none</td>" in page_of(unfinished)


def test_a_long_run_of_many_hospitals_is_below_a_megabyte() -> None:
    sites = [f"hospital-{n}" for n in range(10)]
    template = [e for e in plain_journal() if e["event"] == "reply" and e["kind"] == "train"]
    journal = [start_of(PLAIN, 100)]
    for site in sites:
        journal += enrolled(site)
    for number in range(101):
        metrics = template[number % len(template)]["metrics"]
        journal += [reply_of("train", number, site, metrics) for site in sites]
        journal.append(event_of("round_finished", round=number + 1, seconds=0.5))
    assert len(page_of([*journal, event_of("run_finished", round=100)]).encode()) < 1_000_000


def test_hospitals_with_suspiciously_long_updates_are_in_the_page() -> None:
    lengths = iter(({"north": 3.5, "west": 5.0}, {"north": 12.25}))
    journal = [
        e | ({"long_updates": next(lengths)} if e["event"] == "aggregated" else {})
        for e in plain_journal()
    ]
    text = Tree(page_of(journal)).text
    assert "Suspiciously long updates" in text
    assert "north 12.25 times the median 1–2" in text
    assert "west 5 times the median 1 " in text
    assert "Suspiciously long updates" not in text_of("plain")


def test_the_order_is_that_of_readers_results_then_privacy_then_how_it_went() -> None:
    keys = re.findall(r'<section id="([a-z-]+)"', page_of(plain_journal(GROUPED)))
    order = ["summary", "hospitals", "groups", "thresholds", "survival", "planning"]
    order += ["privacy", "left", "part", "curves", "time", "card", "words", "environment"]
    assert [key for key in keys if key in order] == order


@pytest.mark.parametrize(
    ("name", "said", "is_warning"),
    [
        ("plain", "No limit is promised. No record left a hospital, but exact sums", True),
        ("private sites", "hides which hospitals took part, and protects no patient", True),
        # (1 + 1e-4 · e^-2.7) / (1 + e^-2.7) = 0.9370 + …, rounded up.
        ("private", "is right at most 93.8 % of the time, whatever else they know", False),
    ],
)
def test_the_summary_says_what_may_be_learned_of_patients(
    name: str, said: str, is_warning: bool
) -> None:
    first = PAGES[name].split("</section>")[0].split("What may be learned of patients")[1]
    (paragraph,) = re.findall(r"<p( class=\"warn\")?>(.*?)</p>", first)
    assert said in paragraph[1].replace("\xa0", " ")
    assert bool(paragraph[0]) is is_warning


def test_every_word_of_the_tables_is_explained_and_no_metric_that_the_run_has_not() -> None:
    meanings = glossary(results_of(plain_journal()), facts_of(plain_journal()))
    (table,) = meanings.blocks
    assert isinstance(table, Table)
    words = {row[0] for row in table.rows}
    head = re.findall(r'<th scope="col">([^<]+)</th>', PAGES["plain"].split('id="thresholds"')[0])
    own = {"hospital", "held out", "predicted between", "patients", "mean predicted", "observed"}
    metrics = {re.sub(r" \(\w+\)$", "", name) for name in head} - own
    assert metrics <= words
    assert "epsilon" not in words
    binary = study_of()
    of_binary = Tree(page_of(plain_journal(binary))).text.split("Words of this report")[1]
    assert "AUPRC" in of_binary
    assert "C-index" not in of_binary.split("How to do it again")[0]
    assert "epsilon" in text_of("private").split("Words of this report")[1]
