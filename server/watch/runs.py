"""Which runs there are to watch: one that was named, or all below a folder."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from common.errors import RunError
from server.watch.watched import Watched


@dataclass(kw_only=True)
class Runs:
    """A run that is watched first, and the others of its folder.

    Attributes:
        first: the folder of the run that the page opens with.
        parent: where other runs are looked for; None watches `first` alone.
    """

    first: Path
    parent: Path | None = None
    _watched: dict[str, Watched] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    @property
    def names(self) -> list[str]:
        """The names of all runs, the one with the newest event first."""
        found = [] if self.parent is None else [folder.name for folder in runs_below(self.parent)]
        return found if self.first.name in found else [self.first.name, *found]

    def named(self, name: str) -> Watched | None:
        """The run of this name; None where there is none. A name is never used as a path."""
        if name not in self.names:
            return None
        folder = self.first if name == self.first.name or not self.parent else self.parent / name
        with self._lock:
            return self._watched.setdefault(name, Watched(folder=folder))


def runs_to_watch(run: Path | None, parent: Path) -> Runs:
    """What to watch: the run that was named, begun or not, or the newest below `parent`.

    Raises:
        RunError: no run was named, and there is none.
    """
    if run is not None:
        return Runs(first=run.resolve())
    found = runs_below(parent)
    if not found:
        raise RunError(
            f"Expected a run below {parent}, found none. Name the folder of a run; it may be one "
            "that has not begun."
        )
    return Runs(first=found[0].resolve(), parent=parent.resolve())


def runs_below(parent: Path) -> list[Path]:
    """Folders of runs, the one with the newest event first."""
    journals: list[tuple[int, Path]] = []
    for path in parent.glob("*/journal.jsonl"):
        # One that is taken away meanwhile is no run any more.
        with suppress(FileNotFoundError):
            journals.append((path.stat().st_mtime_ns, path.parent))
    return [folder for _, folder in sorted(journals, reverse=True)]
