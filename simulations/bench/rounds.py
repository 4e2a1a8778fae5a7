"""Rounds of the in-process engine beside those of a plain loop, in one run and on two clocks."""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from common.arrays import Arrays
from common.errors import RunError
from common.study import Study
from simulations.bench.plain_loop import plain_loop, read_sites
from simulations.simulate import Simulation, simulate


def rounds_of(study: Study, sites: Path, folder: Path, *, repetitions: int) -> list[dict[str, Any]]:
    """Two cases, without and with waiting for the disk: seconds a round of both loops.

    A round of the engine is all that happens between the ends of two rounds: messages, checks,
    journal, checkpoint and the simulation's exact metrics included. Seconds are of the wall, and of
    the processor: on a machine that others use as well, the second are the ones to compare.

    Args:
        folder: where runs are written, and removed.

    Raises:
        RunError: the engine and the plain loop disagree in a bit of the model.
    """
    plain_sites = read_sites(study, sites)
    plain = _Ticks()
    ours = {False: _Ticks(), True: _Ticks()}
    for _ in range(repetitions):
        expected = plain_loop(study, plain_sites, clock=plain)
        plain.end_run(step=2)
        for is_durable, ticks in ours.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                _simulated(study, sites, Path(out), ticks, is_durable)
                _check_equal(Path(out) / "model.safetensors", expected.model)
            ticks.end_run(step=1)
    num_sites = len(plain_sites)
    wall_s, processor_s = (statistics.median(s) for s in (plain.wall_s, plain.processor_s))
    return [
        {
            "kind": "per_round",
            "sites": num_sites,
            "durable": is_durable,
            "site_seconds": wall_s / num_sites,
            "plain_seconds_per_round": wall_s,
            "ours_seconds_per_round": (found_s := statistics.median(ticks.wall_s)),
            "ours_over_plain_per_round": found_s / wall_s,
            "overhead_ms_per_message": (found_s - wall_s) / num_sites * 1e3,
            "plain_processor_seconds_per_round": processor_s,
            "ours_over_plain_processor_per_round": (
                statistics.median(ticks.processor_s) / processor_s
            ),
            "num_rounds_measured": len(ticks.wall_s),
            "same_model": True,
        }
        for is_durable, ticks in ours.items()
    ]


class _Ticks:
    """Two clocks read together: of the wall, and of this process's threads.

    Attributes:
        wall_s, processor_s: of each round but the first of a run, which loads libraries.
    """

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.processor_s: list[float] = []
        self._read: list[tuple[float, float]] = []

    def __call__(self) -> float:
        self._read.append((time.perf_counter(), time.process_time()))
        return self._read[-1][0]

    def end_run(self, *, step: int) -> None:
        """Takes the rounds of a run, of which the clock was read at the ends (and beginnings).

        Args:
            step: readings a round.
        """
        pairs = list(pairwise(self._read))[::step]
        for before, after in pairs if step == 1 else pairs[1:]:
            self.wall_s.append(after[0] - before[0])
            self.processor_s.append(after[1] - before[1])
        self._read.clear()


def _simulated(study: Study, sites: Path, out: Path, ticks: _Ticks, is_durable: bool) -> None:
    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "round_finished":
            ticks()

    simulation = Simulation(study=study, sites=sites, out=out, durable=is_durable)
    simulate(simulation, listeners=[listen])


def _check_equal(path: Path, expected: Arrays) -> None:
    found = load_file(path)
    for name, values in expected.unpack().items():
        if found[name].tobytes() != values.tobytes():
            raise RunError(
                f"Expected the model of the plain loop, bit for bit, found another {name}. "
                "The figures would compare different work; report this."
            )
