"""Five tiny hospitals on disk, and whole rounds over them with sites that may misbehave."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.site import Site
from common.messages import Reply, Task, TaskKind
from common.study import Study
from common.study_file import study_from_toml
from server.app import Run, execute
from server.journal import Listener
from simulations.cli import main
from simulations.cohort import SiteEffects, write_cohort
from simulations.engine import InProcessGrid
from simulations.simulate import Simulation, open_sites
from tests.round.commands import Outcome
from tests.round.commands import Run as CommandRun
from tests.round.tiny import TINY_STUDY

# What a site answers to a task, given what it would answer if it were honest.
Twist = Callable[[Task, Callable[[], Reply]], Reply]


class Double:
    """A real site behind a double at the relay's seam, which may answer something else."""

    def __init__(self, site: Site, twist: Twist) -> None:
        self.name = site.name
        self._site = site
        self._twist = twist

    def refuse_malformed(self, kind: TaskKind) -> Reply:
        return self._site.refuse_malformed(kind)

    def answer(self, task: Task) -> Reply:
        return self._twist(task, lambda: self._site.answer(task))


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A run folder after the run."""

    folder: Path

    @property
    def model_bytes(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    @property
    def model(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / "model.safetensors")

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


Federate = Callable[..., Federation]


@pytest.fixture(scope="session")
def study() -> Study:
    return study_from_toml(TINY_STUDY)


@pytest.fixture(scope="session")
def hospitals(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospitals a to e of different sizes; d and e lack the granularity lifestyle."""
    folder = tmp_path_factory.mktemp("hospitals")
    effects = [
        SiteEffects(name="a", num_patients=60),
        SiteEffects(name="b", num_patients=70, severity_shift=0.5),
        SiteEffects(name="c", num_patients=80, granularity_missing=0.3),
        SiteEffects(name="d", num_patients=60, lacks=("lifestyle",)),
        SiteEffects(name="e", num_patients=65, lacks=("lifestyle",)),
    ]
    write_cohort(study, effects, folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def federate(study: Study, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Federate:
    """Runs the real server over the real sites, in process.

    Args:
        twists: by site, how it misbehaves.
        left_out: sites that take no part.
        out: the run's folder; a new one where none is given.
    """

    def run(
        study: Study = study,
        *,
        sites: Path = hospitals,
        twists: Mapping[str, Twist] | None = None,
        left_out: str = "",
        out: Path | None = None,
        grid: Callable[[Mapping[str, Site]], InProcessGrid] = InProcessGrid,
        resume: bool = False,
        listeners: Sequence[Listener] = (),
    ) -> Federation:
        folder = out or tmp_path_factory.mktemp("run") / "out"
        simulation = Simulation(study=study, sites=sites, out=folder, left_out=frozenset(left_out))
        real = open_sites(simulation)
        opened: dict[str, Any] = dict(real)
        for name, twist in (twists or {}).items():
            opened[name] = Double(opened[name], twist)
        plan = Run(study=study, folder=folder, engine="in-process", durable=False, resume=resume)
        try:
            execute(plan, grid(opened), listeners=listeners)
        finally:
            for site in real.values():
                site.close()
        return Federation(folder=folder)

    return run


@pytest.fixture(scope="session")
def honest(federate: Federate) -> Federation:
    """The run of the study in which everybody is honest and nothing goes wrong."""
    return federate()


@pytest.fixture(scope="session")
def without_a(federate: Federate) -> Federation:
    """What the others make of it when the first site, a, takes no part."""
    return federate(left_out="a")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandRun:
    """Types a command, and returns exit code and what it printed."""

    def type_command(*words: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["wardround", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        code = stop.value.code
        return Outcome(code=code if isinstance(code, int) else 0, out=printed.out, err=printed.err)

    return type_command


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The tiny study as a file of its own, which a test may spoil."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_STUDY)
    return path


@pytest.fixture
def sites(tmp_path: Path, study: Study) -> Path:
    """Three hospitals of its own, which a test may spoil."""
    effects = [SiteEffects(name=name, num_patients=80) for name in ("ada", "bea", "cy")]
    write_cohort(study, effects, tmp_path / "sites", seed=0)
    return tmp_path / "sites"
