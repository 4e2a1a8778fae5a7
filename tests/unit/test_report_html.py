"""The report as a page: its markup is whole, it asks nothing of anybody, and trusts no text."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import WardroundError
from server.journal import Event
from server.report import write_report
from tests.unit.builders import study_of
from tests.unit.report_journals import (
    OWN,
    event_of,
    page_of,
    plain_journal,
    private_journal,
    site_private_journal,
    with_one_text_replaced,
)
from tests.unit.report_pages import PAGES, Tree


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_every_element_is_closed_and_every_id_is_there_once(page: str) -> None:
    tree = Tree(page)
    assert tree.open == []
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes in tree.all("a"):
        assert (attributes["href"] or "")[1:] in ids
    for _, attributes in tree.elements:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_the_page_asks_nothing_of_anybody(page: str) -> None:
    tree = Tree(page)
    assert not {"script", "img", "iframe", "object", "form", "base"} & {t for t, _ in tree.elements}
    for _, attributes in tree.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "style", "action", "xlink:href")
            if name == "href":
                assert value == "data:," or (value or "").startswith("#")
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_headings_go_down_one_level_at_a_time_and_landmarks_are_there(page: str) -> None:
    tree = Tree(page)
    levels = [int(t[1]) for t, _ in tree.elements if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.all(landmark)) == 1
    assert tree.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_every_table_has_a_caption_and_names_its_rows_and_columns(page: str) -> None:
    tree = Tree(page)
    assert len(tree.all("table")) == len(tree.all("caption")) == len(tree.all("tbody"))
    assert {a.get("scope") for a in tree.all("th")} == {"row", "col"}
    widths: set[int] = set()
    for part in re.split("(<table|</tr>)", page):
        if part == "<table":
            widths = set()
        elif "<t" in part:
            cells = len(re.findall("<t[dh][ >]", part))
            widths |= {cells} if cells else set()
            assert len(widths) <= 1, part


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_every_chart_has_a_name_a_description_and_a_table(page: str) -> None:
    figures = re.findall("<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == page.count("<svg")
    for figure in figures:
        tree = Tree(figure)
        (svg,) = tree.all("svg")
        assert svg["role"] == "img"
        assert len((svg["aria-labelledby"] or "").split()) == 2
        assert re.search("<desc[^>]*>[^<]+</desc>", figure)
        assert len(tree.all("details")) == len(tree.all("table")) == 1


def test_equal_journals_give_the_same_bytes_and_are_left_as_they_are(tmp_path: Path) -> None:
    written = []
    for run in ("one", "other"):
        folder = tmp_path / run
        folder.mkdir()
        lines = "".join(json.dumps(event) + "\n" for event in plain_journal())
        (folder / "journal.jsonl").write_text(lines)
        write_report(folder)
        assert (folder / "journal.jsonl").read_text() == lines
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"journal.jsonl", "results.json", "report.md", "report.html"}


HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


@pytest.mark.parametrize(
    "journal",
    [plain_journal(OWN), private_journal(), [*site_private_journal(), event_of("run_failed")]],
    ids=["own models", "private", "private sites"],
)
def test_no_text_of_a_journal_becomes_markup(journal: list[Event]) -> None:
    num_shown = 0
    journal = [*journal, event_of("transferred", taken=["labs"], left={"vitals": "not there"})]
    seen: set[str] = set()
    for n, event in enumerate(journal):
        # One event of each kind is enough: the next ones have the same fields.
        kind = f"{event['event']} {event.get('kind')} {event.get('reason')}"
        if kind in seen:
            continue
        seen.add(kind)
        for hostile in with_one_text_replaced(event, HOSTILE):
            try:
                page = page_of([*journal[:n], hostile, *journal[n + 1 :]])
            except (ValidationError, WardroundError, KeyError, ValueError, TypeError):
                # What is checked on the way in does not get as far as a page.
                continue
            assert "<script" not in page
            assert "<img" not in page
            # As the journal has it: neither a template nor anything else was made of it.
            num_shown += "{{7*7}}" in page
    assert num_shown >= 8


def test_texts_of_people_are_shown_as_they_wrote_them() -> None:
    study = study_of(study={"title": "A & B <c>", "description": "Ends with x < 3."})
    page = page_of(plain_journal(study))
    assert "<h1>A &amp; B &lt;c&gt;: report of a run</h1>" in page
    assert "Ends with x &lt; 3." in page


def test_half_of_a_surrogate_pair_does_not_stop_a_report(tmp_path: Path) -> None:
    journal = [*plain_journal(), event_of("absent", round=1, site="north", reason="\ud800")]
    lines = "".join(json.dumps(event) + "\n" for event in journal)
    (tmp_path / "journal.jsonl").write_text(lines)
    write_report(tmp_path)
    assert b"\\ud800" in (tmp_path / "report.html").read_bytes()
