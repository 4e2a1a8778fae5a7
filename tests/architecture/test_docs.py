"""README and docs stay true: links lead somewhere; commands and options that they name exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from simulations.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)
COMMANDS = typer.main.get_command(app)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it: lower case, punctuation gone, spaces as hyphens."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.strip().replace(" ", "-")


def _anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {_anchor(h) for h in headings} | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def _said_commands(text: str) -> Iterator[str]:
    """What a page says to type: in blocks of code, and in code within sentences."""
    blocks = re.findall(r"^```.*?^```|^ {4}[^\n]+$", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from re.findall(r"(?:^[\s│├└─]*|/)(wardround [^\n]+)", block, re.MULTILINE)
    yield from re.findall(r"`(wardround [^`\n]+)`", text)


def _words(said: str) -> list[str]:
    code = re.split(r"\s+#|\s[|>&]\s|;|…|\s\\$", said)[0]
    try:
        return shlex.split(code)[1:]
    except ValueError:  # an apostrophe: prose, and no command
        return []


def _fault(said: str) -> str | None:
    """The first word of the line that is no command or option of ours; None where all are known."""
    command: click.Command = COMMANDS
    options = {"--help", "--version"}
    for word in _words(said):
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
            if word not in command.commands:
                return word
            command = command.commands[word]
            options = {"--help"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        elif word.startswith("--") and word.split("=")[0] not in options:
            return word
    return None


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_options_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    said = list(_said_commands(text))
    assert [(line, fault) for line in said if (fault := _fault(line))] == []


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("wardround simulate demo --rounds 3", None),
        ("wardround simulate demo --round 3", "--round"),
        ("wardround simulat demo", "simulat"),
        ("wardround site up DIR --superlink a:1 # --not-an-option", None),
        ("wardround server upp DIR", "upp"),
    ],
)
def test_what_does_not_exist_is_seen(said: str, fault: str | None) -> None:
    assert _fault(said) == fault


def test_the_index_of_the_documentation_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").iterdir() if page.suffix in (".md", ".ipynb")}
    assert {page for page in pages - {"README.md"} if f"]({page})" not in index} == set()
