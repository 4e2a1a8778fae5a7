"""Pages of runs of every kind, and a reader of them that is strict about their tags."""

from html.parser import HTMLParser

from tests.unit.builders import study_of
from tests.unit.report_journals import (
    GROUPED,
    OWN,
    PLAIN,
    enrolled,
    event_of,
    page_of,
    plain_journal,
    private_journal,
    site_private_journal,
    start_of,
)

VOID = {"meta", "link"}
JOURNALS = {
    "plain": plain_journal(),
    "own models": plain_journal(OWN),
    "private": private_journal(),
    "groups": plain_journal(GROUPED),
    "private sites": site_private_journal(),
    "just begun": [start_of(PLAIN)],
    "enrolled": [start_of(PLAIN), *enrolled("north")],
    "failed": [*plain_journal()[:12], event_of("run_failed", reason="cohort")],
    "many rounds": plain_journal(study_of(), num_rounds=4),
}
PAGES = {name: page_of(journal) for name, journal in JOURNALS.items()}


class Tree(HTMLParser):
    """Checks that tags close in order; collects elements with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"{tag} closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        # A cell ends where its text does.
        self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def text_of(name: str) -> str:
    return " ".join(Tree(PAGES[name]).text.split())
