"""Campaigns: tests that do one thing many times over, and the dated record of their full runs.

A test that is a campaign asks for the fixture `campaign`, and tells it how many of what it tries
and what came of them. `make test` runs a small number and records nothing. In a full run
(`make test-full`) the end of the session writes how each went, on which commit and day, to
`tests/golden/campaigns.jsonl`, and makes `docs/campaigns.md` of it: no number there is written
by hand. Campaigns that were not run keep their line.
"""

import ast
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "golden" / "campaigns.jsonl"
PAGE = ROOT / "docs" / "campaigns.md"
PRODUCT = ("client", "common", "server", "simulations")
IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"
_PROPERTY = "campaign"

_INTRODUCTION = """\
# Campaigns

What `make test-full` has tried, how often, on which code and day. `make test` tries the same things
a few times. This page is made by `python -m tests.campaigns` from `tests/golden/campaigns.jsonl`,
which a full run writes at its end; a campaign that is not run again keeps its line. A campaign has
held if every one of its cases has. The commit is that of the code that was attacked, with a plus
where that code was not committed as it was. What has changed since was not attacked:
`git diff COMMIT -- client common server simulations` shows it.
"""

_TWICE = (
    "There are more answers than mutants: what still is a message after its change is tried twice, "
    "as it is and signed anew with the right key. "
)
_TASKS = _TWICE + (
    "`ok` is no success of the attack: it was the very task that was signed, or, signed anew, one "
    "that the accepted study allows; the test asserts it of each."
)
_REPLIES = _TWICE + (
    "`ok` is no success of the attack: it was the very reply that was signed, or, signed anew by "
    "the site itself, one of the form that was asked for; the test asserts it of each."
)
_KILLS = (
    "The model must be that of an uninterrupted run. A round is asked again where a hospital "
    "was away for too long, or where the coordinator goes on in the middle of it."
)
# What outcomes mean, where their names alone would mislead.
_NOTES = {
    "test_a_killed_connector_costs_no_round": _KILLS,
    "test_a_killed_coordinator_goes_on_where_it_was": _KILLS,
    "test_a_killed_site_process_costs_no_round": _KILLS,
    "test_a_killed_superlink_costs_no_round": _KILLS,
    "test_kills_of_any_process_end_in_the_model_of_an_uninterrupted_run": _KILLS,
    "test_a_private_hospital_that_is_killed_at_random_is_never_under_counted": (
        "For nothing: a kill between the reservation and the sealing of what it paid for. "
        "It stays charged."
    ),
    "test_after_every_kill_nothing_is_under_counted_and_the_round_goes_through": (
        "For nothing: a kill between the reservation and the sealing of what it paid for."
    ),
    "test_sites_are_back_within_a_minute_of_the_end_of_a_long_partition": (
        "Seconds from the end of the partition until a hospital answers again: one that had "
        "nothing to do, and one whose reply had become ready meanwhile."
    ),
    "test_no_mutant_of_a_tasks_bytes_crashes_a_site_or_is_worked_on": _TASKS,
    "test_no_task_of_another_form_is_worked_on_even_if_the_coordinator_has_signed_it": _TASKS,
    "test_no_mutant_of_a_replys_bytes_crashes_the_coordinator_or_is_believed": _REPLIES,
    "test_no_reply_of_another_form_is_believed_even_if_the_site_has_signed_it": _REPLIES,
    "test_a_hostile_site_costs_a_robust_combination_two_points_of_accuracy_at_most": (
        "Accuracy lost against the honest run of the same seed, mean over 5 seeds, as a part of 1; "
        "below 0 where it rose. At most 0.02 is allowed."
    ),
    "test_no_mutant_crashes_hangs_fills_the_memory_or_is_told": (
        "A mutant is refused, or read as a valid file. `longest_s`: processor seconds of the "
        "slowest one."
    ),
}


class Tell(Protocol):
    """What the fixture `record_property` does."""

    def __call__(self, name: str, value: object) -> None:
        """Keeps a value with the report of the running test."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one case of a campaign went.

    Attributes:
        test: FILE::NAME of the test, with the case's id in brackets where it has one.
        num: how many were tried, of `what`.
        seed: from which they follow; None where nothing is drawn.
        found: what came of them, by name.
        commit: of the product; with a plus where it was not what was committed.
    """

    test: str
    num: int
    what: str
    seed: int | None
    found: Mapping[str, int | float] = field(default_factory=dict)
    has_held: bool
    took_s: float
    commit: str
    day: str

    @property
    def function(self) -> str:
        """The test without its case."""
        return self.test.partition("[")[0]


class Campaign:
    """Tells the record how large a campaign is, and what it found."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def tries(self, num: int, what: str, *, seed: int | None = None) -> None:
        """To be said before the first try, so that a failure is in the record as well."""
        self._tell(_PROPERTY, {"num": num, "what": what, "seed": seed})

    def found(self, told: Mapping[str, int | float]) -> None:
        """To be said before anything is asserted of it."""
        self._tell(_PROPERTY, {"found": dict(told)})


class Recorder:
    """A plugin of pytest: gathers the campaigns of a session, and writes them at its end."""

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._commit = commit_of(ROOT)
        self._day = datetime.now(tz=UTC).date()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what a campaign has told, once it has run."""
        if report.when == "call":
            result = result_of(report, commit=self._commit, day=self._day)
            self._results += [result] if result else []

    def pytest_sessionfinish(self) -> None:
        """Writes record and page, if there was a campaign."""
        if self._results:
            write(merged(read(RECORD), self._results), RECORD)
            PAGE.write_text(page(read(RECORD)), encoding="utf-8")


def result_of(report: pytest.TestReport, *, commit: str, day: date) -> Result | None:
    """The result that a report tells of; None where the test is no campaign."""
    told: dict[str, object] = {}
    for name, value in report.user_properties:
        if name == _PROPERTY:
            assert isinstance(value, dict)
            told |= value
    if not told:
        return None
    return Result(
        test=report.nodeid,
        has_held=report.outcome == "passed",
        took_s=round(report.duration, 1),
        commit=commit,
        day=day.isoformat(),
        **told,  # type: ignore[arg-type]
    )


def commit_of(root: Path) -> str:
    """The commit of a checkout, with a plus where the product is not what was committed."""

    def git(*words: str) -> str:
        said = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
        return said.stdout.strip()

    return (git("rev-parse", "--short=7", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "--", *PRODUCT) else ""
    )


def merged(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """All results in order of their tests; a new one takes the place of an old one."""
    return sorted({r.test: r for r in (*old, *new)}.values(), key=lambda r: r.test)


def read(path: Path) -> list[Result]:
    """The results of a record; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines]


def write(results: Iterable[Result], path: Path) -> None:
    """Writes a record, a line for each result."""
    lines = [json.dumps(asdict(result)) + "\n" for result in results]
    path.write_text("".join(lines), encoding="utf-8")


def is_there(function: str) -> bool:
    """Whether FILE::NAME still is a test: a record must not tell of what nobody can repeat."""
    file, _, name = function.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


def page(results: Iterable[Result]) -> str:
    """The whole page: a line for each test, and its cases, where they found something."""
    by_test: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_test[result.function].append(result)
    lines = [
        _INTRODUCTION,
        "| campaign | tried | held | day | commit | minutes |",
        "|---|---:|---|---|---|---:|",
        *(_line(name, cases) for name, cases in by_test.items()),
    ]
    for name, cases in by_test.items():
        lines += _details(name, cases)
    return "\n".join(lines) + "\n"


def _line(function: str, cases: list[Result]) -> str:
    _, _, name = function.partition("::")
    num = sum(case.num for case in cases)
    days = sorted({case.day for case in cases})
    failed = [case for case in cases if not case.has_held]
    columns = (
        f"`{name}`",
        f"{cases[0].what}: {num:,}",
        f"**no: {len(failed)} of {len(cases)} cases**" if failed else "yes",
        " to ".join(dict.fromkeys((days[0], days[-1]))),
        ", ".join(sorted({case.commit for case in cases})),
        f"{sum(case.took_s for case in cases) / 60:.1f}",
    )
    return f"| {' | '.join(columns)} |"


def _details(function: str, cases: list[Result]) -> Iterator[str]:
    told = [case for case in cases if case.found or not case.has_held]
    if told:
        file, _, name = function.partition("::")
        yield from ("", f"## {name}", "", f"In `{file}`. {_NOTES.get(name, '')}".rstrip(), "")
    for case in told:
        _, _, label = case.test.partition("[")
        seed = "" if case.seed is None else f", seed {case.seed}"
        found = "".join(f"; {key} {_number(value)}" for key, value in case.found.items())
        held = "" if case.has_held else "; **failed**"
        case_of = f"{label.removesuffix(']')}: " if label else ""
        yield f"- {case_of}{case.what}: {case.num:,}{seed}{found}{held}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    PAGE.write_text(page(read(RECORD)), encoding="utf-8")
