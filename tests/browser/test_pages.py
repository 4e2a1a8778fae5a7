"""Every page in a real browser, as its readers see it: nothing is asked, cut off or out of reach.

With WARDROUND_PICTURES=FOLDER, screenshots of all pages are put there, to be looked at by people.
"""

import os
from pathlib import Path

import pytest

from tests.browser.devtools import Tab
from tests.browser.looking import asked_of_others, faults_of
from tests.browser.pages import LIVE, NAMES, flawed, live, page

pytestmark = [
    pytest.mark.browser,
    # What the pages are made with warns of its own future.
    pytest.mark.filterwarnings("ignore"),
]


def pictures_of(name: str) -> Path | None:
    """Where screenshots of a page go, if they are wanted."""
    folder = os.environ.get("WARDROUND_PICTURES")
    return Path(folder) / name if folder else None


def put(folder: Path, html: str) -> str:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_right_for_all_its_readers_and_asks_nobody(
    tab: Tab, tmp_path: Path, name: str
) -> None:
    url = put(tmp_path, page(name))
    assert faults_of(tab, url, pictures_of(name)) == []
    assert asked_of_others(tab, url) == []


@pytest.mark.parametrize("name", LIVE)
def test_the_live_page_is_right_for_all_its_readers_and_asks_its_own_server_alone(
    tab: Tab, tmp_path: Path, name: str
) -> None:
    with live(name, tmp_path) as url:
        assert faults_of(tab, url, pictures_of(name)) == []
        assert asked_of_others(tab, url) == [f"{url}runs/first/events"]


_TABLE = (
    "<table><caption>c</caption><tr><th scope=col>a<th scope=col>b<tr><th scope=row>1<td>2</table>"
)
_FIGURE = (
    '<figure><svg role="img" viewBox="0 0 400 100" aria-labelledby="a b"><title id="a">t</title>'
    f'<desc id="b">d</desc>{{}}</svg><details><summary style="padding:1rem">n</summary>{_TABLE}'
    "</details></figure>"
)
_TEXT = '<text x="{}" y="50" font-size="14" fill="currentColor">some words</text>'
FLAWS = {
    "": "<p>Nothing is wrong.</p>" + _FIGURE.format(_TEXT.format(10) + _TEXT.format(200)),
    "contrast": '<p style="background:#fff;color:#777">grey</p>',
    "letters of": '<p style="font-size:8px">small</p>',
    "px wide in": '<div style="width:500px">wide</div>',
    "cut off on paper": f'<div style="overflow:auto" class="scroll">{"word" * 300}</div>',
    "no name or description": _FIGURE.format("").replace('id="b"', ""),
    "no role": _FIGURE.format("").replace('role="img"', ""),
    "no table of its numbers": _FIGURE.format("").split("<details")[0],
    "text out of the picture": _FIGURE.format(_TEXT.format(380)),
    "over text": _FIGURE.format(_TEXT.format(10) + _TEXT.format(40)),
    "h3 after h1": "<h3>deep</h3>",
    "not one h1": "<h1>another</h1>",
    "ids twice": '<p id="x">1</p><p id="x">2</p>',
    "leads nowhere": '<p>See <a href="#none">there</a>.</p>',
    "without a caption": _TABLE.replace("<caption>c</caption>", ""),
    "th without scope": _TABLE.replace(" scope=row", ""),
    "rows of 2,1 cells": _TABLE.replace("<td>2", ""),
    "a picture without words": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="">',
    "a word of programs": "<p>undefined</p>",
    "moves": '<p style="transition:color 1s">slow</p>',
    "a target of": "<details><summary style='font-size:10px'>s</summary>d</details>",
    "the focus is not seen": '<p>See <a href="#" style="outline:none">here</a>.</p>',
    "not reached by keyboard": '<a href="#">1</a><div inert><a href="#">2</a></div>',
    "in the console": "<script>console.warn('w')</script>",
}


@pytest.mark.parametrize("fault", FLAWS)
def test_each_fault_is_found_and_nothing_where_there_is_none(
    tab: Tab, tmp_path: Path, fault: str
) -> None:
    found = faults_of(tab, put(tmp_path, flawed(FLAWS[fault])))
    assert [text for text in found if fault in text] if fault else found == []


def test_a_request_is_found(tab: Tab, tmp_path: Path) -> None:
    url = put(tmp_path, flawed('<img src="http://127.0.0.1:9/x.png" alt="x">'))
    tab.show(width=1280)
    tab.open(url)
    assert asked_of_others(tab, url) == ["http://127.0.0.1:9/x.png"]
