"""The in-process engine against a plain loop, and against Flower's simulation runtime.

Everything that is compared runs in the same call, by turns, on one torch thread, on the same site
folders; figures are medians. That the model of the engine equals that of the plain loop bit for bit
is checked before a figure is given: a fast engine that trains something else is no engine.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.arrays import size_of
from common.errors import RunError
from common.models.patient_model import PatientModel, trainable_manifest
from common.study import Study
from common.study_file import load_study, override, study_to_toml
from server.journal import read_journal
from simulations.bench.rounds import rounds_of
from simulations.cohort import varied_sites, write_cohort

_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting to measure.

    Attributes:
        local_steps: optimizer steps of each site in each round: the local work.
        rounds: of each run; the first is not counted, it loads libraries.
    """

    num_sites: int
    local_steps: int
    rounds: int = 4
    repetitions: int = 3


QUICK = (
    Case(num_sites=4, local_steps=2),
    Case(num_sites=4, local_steps=50),
    Case(num_sites=50, local_steps=2),
)
FULL = (
    *QUICK,
    Case(num_sites=50, local_steps=50, rounds=3, repetitions=2),
    Case(num_sites=200, local_steps=2, rounds=3, repetitions=2),
)
QUICK_FLOWER = (Case(num_sites=4, local_steps=2, rounds=10, repetitions=1),)
FULL_FLOWER = (
    Case(num_sites=4, local_steps=2, rounds=10),
    Case(num_sites=8, local_steps=2, rounds=10),
    Case(num_sites=50, local_steps=2, rounds=4, repetitions=1),
)


def bench_engine(
    *,
    full: bool = False,
    flower: bool = True,
    echo: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Per round against a plain loop, and from command to results against Flower's runtime.

    Returns:
        {"cases": [...]}, each as `per_round` or `end_to_end` describes.

    Args:
        full: all sizes (4, 50 and 200 sites); otherwise the small ones, in about two minutes.
        flower: also measure Flower's runtime, which starts Ray.
        echo: told of each case as it begins.
    """
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as folder:
        for case in FULL if full else QUICK:
            echo(f"per round: {case}")
            cases += per_round(case, Path(folder))
        for case in (FULL_FLOWER if full else QUICK_FLOWER) if flower else ():
            echo(f"end to end: {case}")
            cases.append(end_to_end(case, Path(folder)))
    return {"cases": cases}


def bench_study(name: str, sites: Path, *, rounds: int = 4, repetitions: int = 3) -> dict[str, Any]:
    """Per round against a plain loop, of a study and hospitals that are there already.

    Args:
        name: of a shipped study, or the path of a study file.
    """
    study = override(load_study(name), training__rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as folder:
        figures = rounds_of(study, sites, Path(folder), repetitions=repetitions)
    return {"cases": [{**_size_of(study), **case} for case in figures]}


def per_round(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Two cases of simulated hospitals, as `rounds_of` describes.

    Raises:
        RunError: the engine and the plain loop disagree in a bit of the model.
    """
    study, sites = _study(case), _sites(case.num_sites, folder)
    return [
        {**_facts(case, study), **figures}
        for figures in rounds_of(study, sites, folder, repetitions=case.repetitions)
    ]


def end_to_end(case: Case, folder: Path) -> dict[str, Any]:
    """Wall time of whole commands, each a fresh process: the same run in process and on Flower.

    `…_seconds_end_to_end`: from the command to finished results, so that neither side pays for
    ending its processes; `…_seconds_until_exit`: until the command has returned.
    """
    study, sites = _study(case), _sites(case.num_sites, folder)
    runs: dict[str, list[_Timed]] = {"in-process": [], "flower": []}
    for _ in range(case.repetitions):
        models = []
        for engine, timed in runs.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                timed.append(_command(study, sites, Path(out) / "run", engine))
                models.append((Path(out) / "run" / "model.safetensors").read_bytes())
        if len(set(models)) != 1:
            raise RunError("Expected the same model from both engines, found two. Report this.")
    ours, flower = ([t.results_s for t in timed] for timed in runs.values())
    ours_s, flower_s = statistics.median(ours), statistics.median(flower)
    exits = {engine: statistics.median(t.exit_s for t in timed) for engine, timed in runs.items()}
    rounds = {
        engine: statistics.median([s for t in timed for s in t.round_s])
        for engine, timed in runs.items()
    }
    return {
        "kind": "end_to_end",
        **_facts(case, study),
        "durable": False,
        "ours_seconds_end_to_end": ours_s,
        "flower_seconds_end_to_end": flower_s,
        "flower_over_ours_end_to_end": flower_s / ours_s,
        "ours_seconds_until_exit": exits["in-process"],
        "flower_seconds_until_exit": exits["flower"],
        "ours_seconds_per_round": rounds["in-process"],
        "flower_seconds_per_round": rounds["flower"],
        "num_runs_measured": case.repetitions,
        "same_model": True,
    }


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """One command: seconds until its results, until its exit, and of each round but the first."""

    results_s: float
    exit_s: float
    round_s: Sequence[float]


def _command(study: Study, sites: Path, out: Path, engine: str) -> _Timed:
    out.parent.mkdir(parents=True, exist_ok=True)
    study_file = out.parent / "study.toml"
    study_file.write_text(study_to_toml(study), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("wardround")), "simulate", str(study_file)]
    command += ["--sites", str(sites), "--out", str(out), "--engine", engine, "--json"]
    started = time.time()
    log = out.parent / "command.log"
    # Not `subprocess.run`: on Ctrl-C it would kill a command that is ending Flower's processes.
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,  # noqa: S603  # ours
    ):
        process.wait()
    ended = time.time()
    if process.returncode != 0:
        raise RunError(
            f"Expected {' '.join(command)} to succeed, found exit code {process.returncode}: "
            f"{log.read_text(encoding='utf-8', errors='replace')[-500:]}"
        )
    # Both clocks are those of the machine: when the results were whole, and when we started.
    results_at = (out / "results.json").stat().st_mtime
    times = [
        datetime.fromisoformat(event["at"]).timestamp()
        for event in read_journal(out / "journal.jsonl")
        if event["event"] == "round_finished"
    ]
    return _Timed(
        results_s=results_at - started,
        exit_s=ended - started,
        round_s=[after - before for before, after in pairwise(times)],
    )


def _study(case: Case) -> Study:
    table = override(load_study("demo"), training__rounds=case.rounds, training__seed=_SEED)
    training = table.training.model_copy(
        update={"local_epochs": None, "local_steps": case.local_steps}
    )
    return table.model_copy(update={"training": training})


def _sites(num_sites: int, folder: Path) -> Path:
    sites = folder / f"sites-{num_sites}"
    if not sites.is_dir():
        study = load_study("demo")
        write_cohort(study, varied_sites(study, num_sites=num_sites, seed=_SEED), sites, seed=_SEED)
    return sites


def _facts(case: Case, study: Study) -> dict[str, Any]:
    return {"sites": case.num_sites, **_size_of(study)}


def _size_of(study: Study) -> dict[str, Any]:
    return {
        "parameters": size_of(trainable_manifest(PatientModel(study))),
        "local_steps": study.training.local_steps,
        "rounds": study.training.rounds,
    }
