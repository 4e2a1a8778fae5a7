"""What the live page says, and what it cannot be made to do."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import pytest

from server.journal import Event
from server.watch.frame import TITLES, Shown, content_policy, empty_sections, page_of
from server.watch.watched import Watched
from tests.unit.report_journals import (
    OF_SITES,
    PRIVATE,
    event_of,
    plain_journal,
    private_journal,
    site_private_journal,
    start_of,
)

# The events of `report_journals` are all of this moment.
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(kw_only=True)
class Bench:
    """A run's folder, and the time of day."""

    folder: Path
    now: datetime = NOON
    seconds: float = 0.0

    def watched(self) -> Watched:
        def passing() -> float:
            self.seconds += 1.0
            return self.seconds

        return Watched(folder=self.folder, clock=lambda: self.now, seconds=passing)

    def write(self, journal: list[Event]) -> None:
        text = "".join(json.dumps(event) + "\n" for event in journal)
        (self.folder / "journal.jsonl").write_text(text)

    def shown(self, journal: list[Event]) -> Shown:
        self.write(journal)
        return self.watched().look()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "my-run"
    folder.mkdir()
    return Bench(folder=folder)


def text_of(markup: str) -> str:
    return unescape(re.sub("<[^>]+>", " ", markup))


def html_of(shown: Shown) -> str:
    return page_of(shown, events="/runs/x/events", others=[("<i>y</i>", "/runs/y")])


def until(journal: list[Event], event: str, number: int) -> list[Event]:
    last = [n for n, e in enumerate(journal) if e["event"] == event and e.get("round") == number]
    return journal[: last[-1] + 1]


@pytest.mark.parametrize("make", [plain_journal, private_journal, site_private_journal])
def test_a_page_has_the_same_sections_at_every_moment(bench: Bench, make: object) -> None:
    assert callable(make)
    journal = make()
    keys = [key for key, _ in TITLES]
    for length in (0, 1, 2, 4, len(journal) // 2, len(journal)):
        shown = bench.shown(journal[:length])
        assert list(shown.sections) == keys
        for key, title in TITLES:
            assert f'<h2 id="{key}-title">{title}</h2>' in shown.sections[key]
        assert html_of(shown).count("<section ") == len(keys) + 1


def test_a_run_that_has_not_begun_says_so_and_is_shown_once_it_has(bench: Bench) -> None:
    watched = bench.watched()
    assert "has not begun" in watched.look().status
    bench.write(plain_journal()[:1])
    bench.seconds += 1000
    assert watched.look().status == "Running: round 0 of 2, enrolment."


def test_where_the_run_stands_is_one_sentence_of_rounds_that_are_whole(bench: Bench) -> None:
    journal = plain_journal()
    shown = bench.shown(until(journal, "aggregated", 1)[:-2])
    assert shown.status == "Running: round 0 of 2, training."
    shown = bench.shown(until(journal, "round_finished", 1))
    assert re.fullmatch(
        r"Running: round 1 of 2, training\. After round 0: AUROC of event [\d.]+,.*\.", shown.status
    )
    shown = bench.shown(until(journal, "round_finished", 2))
    assert shown.status.startswith("Running: round 2 of 2, evaluation. After round 1: ")
    shown = bench.shown(journal)
    assert shown.status.startswith("Finished: round 2 of 2. After round 2: AUROC of event ")
    assert shown.title == "2/2 my-run"
    assert shown.heading == "Fever & falls"


def test_hospitals_absences_and_their_reasons_are_shown(bench: Bench) -> None:
    journal = until(plain_journal(), "asked", 1)
    journal.append(event_of("absent", round=1, site="west", reason="budget_exceeded"))
    shown = bench.shown(journal)
    told = text_of(shown.sections["hospitals"])
    assert "absent: refused: its privacy budget does not suffice; absent 1 time so far" in told
    assert "Absent: west." in shown.status
    assert "its privacy budget does not suffice" in text_of(shown.sections["part"])


def test_a_failed_run_says_why(bench: Bench) -> None:
    journal = until(plain_journal(), "asked", 1)
    shown = bench.shown([*journal, event_of("run_failed", reason="cohort")])
    expected = "Failed in round 1 of 2: fewer hospitals answered than the study's minimum."
    assert shown.status.startswith(expected)


def test_a_run_of_which_nothing_is_heard_is_told_by_the_minute(bench: Bench) -> None:
    bench.write(until(plain_journal(), "asked", 1))
    watched = bench.watched()
    assert "Nothing has been written" not in watched.look().sections["now"]
    bench.now += timedelta(minutes=3, seconds=10)
    bench.seconds += 1000
    assert "Nothing has been written for 3 minutes." in watched.look().sections["now"]


def test_privacy_of_patients_is_shown_as_reserved_then_as_hospitals_tell_it(bench: Bench) -> None:
    of_round = {"kind": "train", "nonces": {"north": "n"}, "bytes_down": 1}
    asked = [event_of("asked", round=number, **of_round) for number in (0, 1)]
    journal = private_journal(PRIVATE)
    shown = bench.shown([*journal[:7], *asked])
    assert "≤ 3" in text_of(shown.sections["now"])
    # Two rounds and a spare one are planned for.
    assert "2 of 3" in text_of(shown.sections["privacy"])
    assert "evaluated once, after its last round" in text_of(shown.sections["curves"])
    shown = bench.shown(journal)
    assert "2.700 spent at most" in re.sub(r"\s+", " ", text_of(shown.sections["now"]))


def test_privacy_of_sites_is_a_curve_over_rounds(bench: Bench) -> None:
    first = event_of("site_privacy", round=1, epsilon=0.9, delta=1e-3, noise_multiplier=4.0)
    journal = [e for e in site_private_journal() if e["event"] != "site_privacy"]
    shown = bench.shown([*journal, first, first | {"round": 2, "epsilon": 1.2341}])
    privacy = shown.sections["privacy"]
    assert "Epsilon per hospital over rounds" in privacy
    assert "After round 2: 1.235." in privacy
    assert "0.900" in text_of(privacy)
    shown = bench.shown([start_of(OF_SITES)])
    assert "Epsilon per hospital over rounds" not in shown.sections["privacy"]


def test_a_damaged_journal_is_told_of_and_watched_further(bench: Bench) -> None:
    bench.write(plain_journal())
    path = bench.folder / "journal.jsonl"
    path.write_text(path.read_text() + "{\n")
    shown = bench.watched().look()
    assert "Damaged lines in its journal, passed over: 1." in shown.subtitle
    assert shown.status.startswith("Finished")
    watched = bench.watched()
    bench.write([start_of(PRIVATE) | {"study": {"study": {}}}])
    assert "events that cannot be read" in watched.look().status
    bench.write(plain_journal())
    bench.seconds += 1000
    assert watched.look().status.startswith("Finished")


def test_however_many_look_the_page_is_made_once(bench: Bench) -> None:
    bench.write(plain_journal()[:4])
    watched = bench.watched()
    first = watched.look()
    assert watched.look() is first
    bench.write(plain_journal())
    # Making it took one tick of this clock; then it rests for three.
    assert watched.look() is first
    bench.seconds += 3
    assert watched.look() is not first


def test_no_text_of_a_journal_becomes_an_element(bench: Bench) -> None:
    evil = "<script>alert(1)</script>\"' onload=x {{ 7 * 7 }}"
    journal = [
        json.loads(json.dumps(event).replace("north", "NORTH").replace("Fever & falls", "TITLE"))
        for event in plain_journal()
    ]
    journal.append(event_of("absent", round=1, site="NORTH", reason="REASON"))
    journal.append(event_of("run_failed", reason="REASON"))
    for word in ("NORTH", "TITLE", "REASON"):
        journal = [
            json.loads(json.dumps(event).replace(word, json.dumps(evil)[1:-1])) for event in journal
        ]
    page = html_of(bench.shown(journal))
    assert page.count("<script>") == 1
    assert "alert(1)" in page
    assert "onload=x" not in re.sub('"[^"]*"', "", "".join(re.findall("<[^>]+>", page)))
    assert "49" not in re.findall(r"alert\(1\).{0,60}", page)[0]
    assert "&lt;i&gt;y&lt;/i&gt;" in page


def test_the_policy_names_the_one_style_and_the_one_script_of_the_page() -> None:
    empty = Shown(title="t", heading="h", subtitle="", status="s", sections=empty_sections("x"))
    page = html_of(empty)
    policy = content_policy()
    for kind, tag in (("style", "style"), ("script", "script")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"(src|href)=.(https?:|//)", page)


def test_the_page_is_of_use_without_scripts_and_to_those_who_cannot_see_it() -> None:
    empty = Shown(title="t", heading="h", subtitle="", status="s", sections=empty_sections("x"))
    page = html_of(empty)
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert 'role="status" aria-live="polite"' in page
    assert '<a class="skip" href="#content">' in page
    assert '<html lang="en">' in page
    for key, _ in TITLES:
        assert f'<section id="{key}" aria-labelledby="{key}-title">' in page
