"""`wardround simulate`: one federation on this machine, with or without privacy.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli_run import (
    AsJson,
    Delta,
    Epsilon,
    MlflowStore,
    Rounds,
    Seed,
    StrategyName,
    StudyName,
    TensorBoardFolder,
    effective_study,
    how_to_go_on,
    live_sinks,
    new_run_folder,
    tell_results,
)

if TYPE_CHECKING:
    from common.study import Study
    from server.journal import Listener
    from simulations.simulate import Simulation

Sites = Annotated[
    Path | None, typer.Option(help="Folder of site folders; without it, hospitals are simulated.")
]


def simulate(
    study: StudyName,
    sites: Sites = None,
    rounds: Rounds = None,
    seed: Seed = None,
    strategy: StrategyName = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: runs/STUDY-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    num_sites: Annotated[
        int, typer.Option(min=2, help="How many hospitals to simulate without --sites.")
    ] = 6,
    engine: Annotated[
        str, typer.Option(help="in-process, or flower: Flower's own simulation runtime.")
    ] = "in-process",
    init_from: Annotated[
        Path | None,
        typer.Option(help="Start from the model of another run, block by block where it fits."),
    ] = None,
    durable: Annotated[bool, typer.Option(help="Wait for the disk (fsync) at every step.")] = False,
    mlflow: MlflowStore = None,
    tensorboard: TensorBoardFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train one model across hospitals on this machine, and report each hospital's result."""
    from common.run_folder import check_unused, check_used
    from simulations.simulate import Simulation

    if engine not in ("in-process", "flower"):
        raise typer.BadParameter(f"expected in-process or flower, found '{engine}'")
    if engine == "flower" and durable:
        raise typer.BadParameter("--durable is for the in-process engine")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to go on with")
    console = Console(stderr=as_json)
    effective = effective_study(
        study,
        console,
        rounds=rounds,
        seed=seed,
        strategy=strategy,
        epsilon=epsilon,
        delta=delta,
    )
    folder = out or new_run_folder(effective.name)
    (check_used if resume else check_unused)(folder)
    sinks = live_sinks(folder, console, mlflow=mlflow, tensorboard=tensorboard)
    simulation = Simulation(
        study=effective,
        sites=sites or simulated_hospitals(effective, folder, num_sites, console, resume=resume),
        out=folder,
        resume=resume,
        durable=durable,
        init_from=init_from,
    )
    try:
        with sinks as told:
            _run(simulation, engine, console, told)
    except KeyboardInterrupt:
        console.print(how_to_go_on(folder), highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    tell_results(folder, console, as_json=as_json)


def simulated_hospitals(
    study: "Study", folder: Path, num_sites: int, console: Console, *, resume: bool
) -> Path:
    """The folder of simulated hospitals, which a run that goes on has already."""
    from simulations.cohort import varied_sites, write_cohort

    sites = folder / "hospitals"
    if not resume:
        console.print(
            f"No --sites: simulating {num_sites} hospitals with this study's features in "
            f"{sites} (no real patients).",
            highlight=False,
        )
        effects = varied_sites(study, num_sites=num_sites, seed=study.training.seed)
        write_cohort(study, effects, sites, seed=study.training.seed)
    return sites


def _run(
    simulation: "Simulation", engine: str, console: Console, listeners: "list[Listener]"
) -> None:
    from server.progress import Progress
    from simulations.simulate import simulate as run

    if engine == "flower":
        from simulations.flower_runtime import run_on_flower

        run_on_flower(
            simulation.study,
            simulation.sites,
            simulation.out,
            resume=simulation.resume,
            init_from=simulation.init_from,
        )
        return
    with Progress(console) as progress:
        run(simulation, listeners=[progress.listen, *listeners])
