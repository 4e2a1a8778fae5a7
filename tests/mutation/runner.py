"""Runs the tests of a module against its mutants: one process loads all, and forks for each.

Before it does, every test runs once as it should, and it is noted which lines each runs: a mutant
is shown to the tests that run its line and to no others. Then one of each file runs in a child
whose code is unchanged: a test that fails there would catch everything. A child that takes longer
than its share of the processor has noticed as well (an endless loop); one that waits for ever is
ended.
"""

import os
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import coverage
import pytest
from _pytest.main import pytest_runtestloop

from tests.mutation.door import ROOT, name_of
from tests.mutation.operators import Mutant
from tests.mutation.swap import swap

CHILD_PROCESSOR_S = 60
CONTROL_PROCESSOR_S = 600
CHILD_WALL_S = 3600.0
_KILLED, _SURVIVED, _OUT_OF_REACH, _BROKEN = 1, 0, 3, 4


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the tests made of a mutant.

    Attributes:
        came: "caught", "survived", "too long", "not run" (no test runs its line), or "out of reach"
            (this way of putting it into the code does not take it).
        by: the first test that failed.
        num_tests: those that run its line.
    """

    mutant: Mutant
    came: str
    by: str
    num_tests: int
    took_s: float


class Mutation:
    """A plugin of pytest: its loop runs the tests once, and then for each mutant.

    To be made before the modules are loaded, so that it is noted what loading runs.
    """

    def __init__(
        self,
        mutants: Sequence[Mutant],
        tests_of: Callable[[str], Sequence[str]],
        tell: Callable[[Verdict], None],
    ) -> None:
        self._mutants, self._tests_of, self._tell = mutants, tests_of, tell
        self._lines = _Lines(sorted({mutant.path for mutant in mutants}))
        self.first_failed = ""
        self.coverage = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Notes which lines a test runs."""
        self._lines.begin(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the first test that fails."""
        if report.failed and not self.first_failed:
            self.first_failed = report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All tests as they should be, then a child for each mutant."""
        pytest_runtestloop(session)
        self._lines.end()
        self._check(session.testsfailed == 0, "tests that pass")
        self.coverage = self._lines.report()
        everything = list(session.items)
        session.items = list({item.nodeid.partition("::")[0]: item for item in everything}.values())
        came, self.first_failed = _in_child(lambda: self._run(session), CONTROL_PROCESSOR_S)
        self._check(came == "survived", "tests that pass in a child as well")
        for mutant in self._mutants:
            files = tuple(f"{file}::" for file in self._tests_of(mutant.path))
            run_it = self._lines.tests_of(mutant.path, *mutant.lines)
            session.items = [
                item
                for item in everything
                if item.nodeid in run_it and item.nodeid.startswith(files)
            ]
            self._tell(self._shown(session, mutant))
        return True

    def _shown(self, session: pytest.Session, mutant: Mutant) -> Verdict:
        began = time.monotonic()
        came, by = _in_child(lambda: self._try(session, mutant))
        if not session.items and came == "survived":
            came = "not run"
        return Verdict(
            mutant=mutant,
            came=came,
            by=by,
            num_tests=len(session.items),
            took_s=round(time.monotonic() - began, 1),
        )

    def _try(self, session: pytest.Session, mutant: Mutant) -> tuple[int, str]:
        if not swap(name_of(mutant.path), mutant.tree()):
            return _OUT_OF_REACH, ""
        return self._run(session)

    def _run(self, session: pytest.Session) -> tuple[int, str]:
        session.config.option.maxfail = 1
        # Raised at the first test that fails.
        with suppress(session.Interrupted, session.Failed):
            pytest_runtestloop(session)
        return (_KILLED if session.testsfailed else _SURVIVED), self.first_failed

    def _check(self, is_so: bool, expected: str) -> None:
        if not is_so:
            raise pytest.UsageError(f"Expected {expected}, found {self.first_failed}.")


class _Lines:
    """Which tests run which lines of some modules."""

    def __init__(self, paths: Sequence[str]) -> None:
        files = [str(ROOT / path) for path in paths]
        self._measured = coverage.Coverage(
            data_file=None, include=files, config_file=False, branch=True
        )
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._is_on = True
        self._measured.start()

    def end(self) -> None:
        """From now on nothing is noted."""
        self._is_on = False
        self._measured.stop()
        data = self._measured.get_data()
        for file in data.measured_files():
            path = Path(file).relative_to(ROOT).as_posix()
            for line, tests in data.contexts_by_lineno(file).items():
                self._tests[path, line] |= set(tests)

    def begin(self, test: str) -> None:
        """From now on it is this test that runs."""
        if self._is_on:
            self._measured.switch_context(test)

    def report(self) -> str:
        """Lines and branches that no test runs, by module."""
        text = StringIO()
        self._measured.report(file=text, show_missing=True)
        return text.getvalue()

    def tests_of(self, path: str, first: int, last: int) -> set[str]:
        """The tests that run any of some lines."""
        return set().union(*(self._tests[path, line] for line in range(first, last + 1)))


def _in_child(
    work: Callable[[], tuple[int, str]], processor_s: int = CHILD_PROCESSOR_S
) -> tuple[str, str]:
    """What came of it in a process of its own, and which test it named."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s))
        code = _BROKEN
        try:
            code, by = work()
            os.write(write, by.encode()[:300])
        finally:
            os._exit(code)
    os.close(write)
    status = _wait(child)
    by = os.read(read, 300).decode()
    os.close(read)
    # One that could not be put in was not caught by any test.
    names = {
        _KILLED: "caught",
        _SURVIVED: "survived",
        _OUT_OF_REACH: "out of reach",
        _BROKEN: "out of reach",
    }
    return ("too long" if status < 0 else names.get(status, "caught")), by


def _wait(child: int) -> int:
    """How a child ended: its exit status, or less than 0 where a signal or its time ended it."""
    end = time.monotonic() + CHILD_WALL_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1
