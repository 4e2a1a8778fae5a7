"""One run that is watched: what the page says of it now, made again only when something is new."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from common.errors import WardroundError
from server.journal import utc_now
from server.watch.course import UNREADABLE, Course
from server.watch.frame import Shown, empty_sections, inner_html
from server.watch.sections import NOT_BEGUN, sections_of, sentence_of
from server.watch.states import state_of
from server.watch.tail import Tail

logger = logging.getLogger(__name__)

# A page is not made again before this many times as long as making it took, whoever asks.
_REST = 3.0


@dataclass(kw_only=True)
class Watched:
    """A run, by its folder. Safe to be asked by several threads.

    Guarantees:
        - However many look at once, the journal is read and the page is made once.
        - A journal that cannot be read or understood is told of on the page, and watched further.
    """

    folder: Path
    clock: Callable[[], datetime] = utc_now
    seconds: Callable[[], float] = monotonic
    _tail: Tail = field(init=False)
    _course: Course = field(default_factory=Course, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)
    _shown: Shown | None = field(default=None, init=False)
    _made_for: tuple[int, int] = field(default=(-1, -1), init=False)
    _not_before: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tail = Tail(path=self.folder / "journal.jsonl")

    def look(self) -> Shown:
        """What the page says now."""
        with self._lock:
            if self._shown is not None and self.seconds() < self._not_before:
                return self._shown
            try:
                news = self._tail.read()
            except OSError as fault:
                reason = fault.strerror or type(fault).__name__
                return _empty(self.folder.resolve().name, _CANNOT_BE_READ.format(reason))
            if news.starts_over:
                self._course, self._made_for = Course(), (-1, -1)
            self._course.take(news.lines)
            now = self.clock()
            # Every minute, too: the page says for how long nothing has come.
            state = (
                len(self._course.events) + self._course.num_damaged,
                int(now.timestamp() // 60),
            )
            if self._shown is None or state != self._made_for:
                started = self.seconds()
                self._shown, self._made_for = self._make(now), state
                self._not_before = self.seconds() + _REST * (self.seconds() - started)
            return self._shown

    def _make(self, now: datetime) -> Shown:
        name = self.folder.resolve().name
        if not self._course.has_begun:
            text = NOT_BEGUN if not self._course.num_damaged else _NOT_A_JOURNAL
            return _empty(name, text)
        try:
            return _shown(name, self._course, now)
        except (WardroundError, *UNREADABLE) as fault:
            logger.warning("%s: %s", name, fault)
            return _empty(name, _NOT_A_JOURNAL)


_CANNOT_BE_READ = "Expected a journal that can be read, found: {}. The page tries again by itself."
_NOT_A_JOURNAL = (
    "Expected the journal of a run of this version, found events that cannot be read. Write its "
    "report with “wardround report” to see where."
)


def _empty(name: str, text: str) -> Shown:
    return Shown(title=name, heading=name, subtitle="", status=text, sections=empty_sections(text))


def _shown(name: str, course: Course, now: datetime) -> Shown:
    results = course.results()
    state = state_of(course.events)
    sections = sections_of(results, state, course.events, now=now)
    return Shown(
        title=f"{state.round}/{state.num_rounds} {name}",
        heading=_title(course, results),
        subtitle=_subtitle(name, course, results),
        status=sentence_of(results, state),
        sections={section.key: inner_html(section) for section in sections},
    )


def _title(course: Course, results: dict[str, Any]) -> str:
    started = next(e for e in course.events if e["event"] == "run_started")
    return str(started["study"]["study"].get("title") or results["study"])


def _subtitle(name: str, course: Course, results: dict[str, Any]) -> str:
    damaged = course.num_damaged
    told = f" Damaged lines in its journal, passed over: {damaged}." if damaged else ""
    started = results["started_at"][:16].replace("T", " ")
    return (
        f"Run {name}, study {results['study']}, {results['strategy']}, seed {results['seed']}, "
        f"engine {results['engine']}. Started {started} UTC.{told}"
    )
