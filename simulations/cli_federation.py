"""`wardround federation up`: one process tree per hospital on this machine, and a study on them.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from common.signals import Interruption, interruptible
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
from simulations.cli_simulate import Sites, simulated_hospitals

if TYPE_CHECKING:
    from common.study import Study
    from server.journal import Listener

federation = typer.Typer(
    help="Hospitals as processes of their own on this machine: TLS, keys, signatures.",
    no_args_is_help=True,
)


@federation.command("up")
def federation_up(
    study: StudyName,
    sites: Sites = None,
    num_sites: Annotated[
        int, typer.Option(min=2, help="How many hospitals to simulate without --sites.")
    ] = 4,
    rounds: Rounds = None,
    seed: Seed = None,
    strategy: StrategyName = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: runs/STUDY-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave all processes up after the run, until Ctrl-C.")
    ] = False,
    mlflow: MlflowStore = None,
    tensorboard: TensorBoardFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run a study with real processes, TLS and keys on this machine, and take all down again.

    The hospitals' own folders, ledgers and policies stay as they are: all books are in the run's
    folder.
    """
    from common.run_folder import check_unused, check_used

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
    hospitals = sites or simulated_hospitals(effective, folder, num_sites, console, resume=resume)
    try:
        with interrupted_by_signals() as interruption:
            _run(
                effective,
                hospitals,
                folder,
                console,
                sinks=sinks,
                resume=resume,
                keep=keep,
                as_json=as_json,
                look=interruption.check,
            )
    except KeyboardInterrupt:
        console.print(how_to_go_on(folder), highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def _run(
    study: "Study",
    sites: Path,
    folder: Path,
    console: Console,
    *,
    sinks: "AbstractContextManager[list[Listener]]",
    resume: bool,
    keep: bool,
    as_json: bool,
    look: Callable[[], None],
) -> None:
    from server.progress import Progress
    from simulations.federation.run import federation as up

    with ExitStack() as stack:
        with _Phases(console) as phases:
            running = stack.enter_context(
                up(study, sites, folder, resume=resume, tell=phases.tell, look=look)
            )
        with sinks as told, Progress(console) as progress:
            running.run(
                resume=resume,
                listeners=[progress.listen, *told],
                tell=lambda text: console.print(text, highlight=False, soft_wrap=True),
            )
        if keep:
            _tell_all(folder, console, as_json=as_json)
            console.print("All processes are kept up until Ctrl-C.", highlight=False)
            try:
                running.stay()
            except KeyboardInterrupt:
                return
    _tell_all(folder, console, as_json=as_json)


class _Phases:
    """Shows what is being done: one line that changes, or a line each without a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")

    def __enter__(self) -> "_Phases":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._status.stop()

    def tell(self, text: str) -> None:
        """Shows `text` in place of the last one."""
        if self._console.is_terminal:
            self._status.update(text)
        else:
            self._console.print(text, highlight=False, soft_wrap=True)


def _tell_all(folder: Path, console: Console, *, as_json: bool) -> None:
    tell_results(folder, console, as_json=as_json)
    sites = folder / "deployment" / "sites"
    example = next(iter(sorted(sites.glob("*/site"))), sites)
    console.print(
        f"Every hospital's books: wardround ledger {example}, wardround audit {example}; logs: "
        f"{folder / 'deployment' / 'logs'}",
        highlight=False,
        soft_wrap=True,
    )


def interrupted_by_signals() -> AbstractContextManager[Interruption]:
    """Lets SIGTERM and SIGHUP end the run as Ctrl-C does, which a background job would ignore."""
    return interruptible(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
