"""One simulated federation, from a study and site folders to a finished run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord

from client.site import Site
from common.errors import CohortError, DataError, SiteConfigError
from common.privacy.mechanisms import NoiseSource
from common.run_folder import site_folders
from common.seeds import seed_of
from common.study import Study
from server.app import Run, execute
from server.journal import Listener
from simulations.engine import InProcessGrid
from simulations.oracle import Oracle

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate.

    Attributes:
        sites: the folder whose sub-folders are sites.
        out: the run's folder.
        left_out: names of site folders that take no part.
        durable: wait for the disk (fsync) at every line of the sites' and the server's books.
        init_from: a folder with a model, whose blocks the study starts from where they fit.
    """

    study: Study
    sites: Path
    out: Path
    left_out: frozenset[str] = frozenset()
    resume: bool = False
    durable: bool = False
    init_from: Path | None = None


def open_sites(simulation: Simulation, oracle: Oracle | None = None) -> dict[str, Site]:
    """The sites by name, each with its books in the run's folder.

    Raises:
        DataError: some sites cannot start; the text names every one of them, and why.
    """
    # Bit-equal results are claimed for one thread per site, on every transport.
    torch.set_num_threads(1)
    sites: dict[str, Site] = {}
    faults: list[str] = []
    for folder in site_folders(simulation.sites):
        if folder.name in simulation.left_out:
            continue
        try:
            sites[folder.name] = Site.simulated(
                folder,
                simulation.study,
                state_dir=simulation.out / "sites" / folder.name,
                durable=simulation.durable,
                observer=None if oracle is None else oracle.observer(folder.name),
            )
        except (DataError, SiteConfigError) as fault:
            faults.append(f"{folder.name}: {fault}")
    if faults:
        raise DataError("\n".join(faults))
    return sites


def simulate(
    simulation: Simulation,
    *,
    listeners: Sequence[Listener] = (),
    oracle: Oracle | None = None,
) -> Path:
    """Runs the federation in this process; returns the path of the report.

    Args:
        listeners: told of every event of the journal, as it happens.
        oracle: collects the predictions; for callers that want them after the run.

    Raises:
        WardroundError: bad input, an occupied run folder, or too few sites.
    """
    oracle = oracle or Oracle()
    run = Run(
        study=simulation.study,
        folder=simulation.out,
        engine="in-process",
        resume=simulation.resume,
        durable=simulation.durable,
        init_from=simulation.init_from,
        noise=_server_noise(simulation),
    )
    sites = open_sites(simulation, oracle)
    _check_sites(simulation, [site.name for site in sites.values()])
    evaluate = _evaluation_by(oracle, simulation.study)
    try:
        execute(run, InProcessGrid(sites), listeners=listeners, oracle=evaluate)
    finally:
        for site in sites.values():
            site.close()
    return simulation.out / "report.md"


def _check_sites(simulation: Simulation, names: list[str]) -> None:
    """Nothing, if the hospitals have names of their own, and there are enough of them."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"Expected every site to have its own name, found {', '.join(repeated)} more than once "
            f"below {simulation.sites}. Change site.name in site.toml."
        )
    fewest = simulation.study.strategy.min_sites
    if len(names) < fewest:
        # A real coordinator waits for more sites to join; in one process none ever will.
        raise CohortError(
            f"Expected at least {fewest} sites (strategy.min_sites), found {len(names)} below "
            f"{simulation.sites}. Add site folders."
        )


def _evaluation_by(oracle: Oracle, study: Study) -> Evaluate:
    """What the oracle knows of a round, as the journal takes it."""

    def evaluate(round_number: int, _: ArrayRecord) -> MetricRecord | None:
        by_outcome = oracle.pop(round_number, study) or {}
        known: dict[str, Any] = {
            f"{outcome}.{name}": value
            for outcome, metrics in by_outcome.items()
            for name, value in metrics.items()
            if value is not None
        }
        return MetricRecord(known) if known else None

    return evaluate


def _server_noise(simulation: Simulation) -> NoiseSource:
    """Noise that follows from the study's seed, other noise after a resume: it protects nobody."""
    journal = simulation.out / "journal.jsonl"
    num_bytes = journal.stat().st_size if simulation.resume and journal.is_file() else 0
    seed = simulation.study.training.seed
    return NoiseSource.seeded(seed_of(seed, "coordinator", num_bytes, "noise"))
