"""`wardround server`: the SuperLink, and a study on it.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.signals import interruptible
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
    tell_results,
)

if TYPE_CHECKING:
    from server.superlink.run import Hospitals

server = typer.Typer(help="The coordinator: the server that hospitals connect to, and runs on it.")


@server.command()
def up(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder that `provision` has made.", show_default=False
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    without_proxy: Annotated[
        bool,
        typer.Option(
            "--without-proxy",
            help="Everybody on this network is trusted: they could start runs, register nodes.",
        ),
    ] = False,
) -> None:
    """Run the server that hospitals connect to, and restart it where it dies; Ctrl-C ends it."""
    from server.superlink import up as superlink

    superlink.up(folder, host=host, without_proxy=without_proxy)


@server.command("run")
def run_command(
    study: StudyName,
    folder: Annotated[Path, typer.Option("--dir", help="The folder that `provision` has made.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    rounds: Rounds = None,
    seed: Seed = None,
    strategy: StrategyName = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(help="Start from the model of another run, block by block where it fits."),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for more than the fewest sites.")
    ] = 10.0,
    mlflow: MlflowStore = None,
    tensorboard: TensorBoardFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run a study over the consortium's hospitals, whose server `server up` has started."""
    from common.run_folder import check_unused, check_used
    from server.app import Run
    from server.progress import Progress
    from server.superlink.run import run_study

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
    (check_used if resume else check_unused)(out)
    sinks = live_sinks(out, console, mlflow=mlflow, tensorboard=tensorboard)
    plan = Run(study=effective, folder=out, engine="superlink", resume=resume, init_from=init_from)
    try:
        # As a service manager ends it, so does Ctrl-C: what was reached is in the checkpoint.
        with (
            interruptible(signal.SIGINT, signal.SIGTERM) as interruption,
            sinks as told,
            Progress(console) as progress,
        ):
            run_study(
                plan,
                folder,
                listeners=[progress.listen, *told],
                on_hospitals=lambda hospitals: _show(hospitals, console),
                on_notice=lambda text: console.print(text, highlight=False, soft_wrap=True),
                look=interruption.check,
                grace_s=grace,
            )
    except KeyboardInterrupt:
        console.print(how_to_go_on(out), highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    tell_results(out, console, as_json=as_json)


def _show(hospitals: "Hospitals", console: Console) -> None:
    num_all = len(hospitals.connected) + len(hospitals.missing)
    missing = f"; missing: {', '.join(hospitals.missing)}" if hospitals.missing else ""
    console.print(
        f"{len(hospitals.connected)} of {num_all} hospitals are connected{missing}",
        highlight=False,
        soft_wrap=True,
    )
