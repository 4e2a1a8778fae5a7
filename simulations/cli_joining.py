"""`wardround joining`: what joining brings each hospital, and what each brings the others.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli_run import AsJson, Delta, Epsilon, Rounds, StudyName, new_run_folder, with_privacy
from simulations.cli_simulate import Sites, simulated_hospitals

if TYPE_CHECKING:
    from common.study import Study
    from simulations.joining.make import Progress
    from simulations.joining.training import Measured, Piece

_NUM_SIMULATED = 6


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("joining", rich_help_panel="For a researcher")(joining)


def joining(
    study: StudyName,
    sites: Sites = None,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    epsilon: Epsilon = None,
    delta: Delta = None,
    rounds: Rounds = None,
    fine_tune_steps: Annotated[
        int,
        typer.Option(
            min=1, help="Steps of each hospital's personal model, where the study plans none."
        ),
    ] = 20,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out/--no-leave-out",
            help="Also train without each hospital, and without each granularity.",
        ),
    ] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Default: runs/STUDY-joining-TIME. The same folder again goes on."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Also put the tables between the markers of this Markdown file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What joining brings each hospital, on its own patients, with intervals and a plain sentence.

    Goes on where it was interrupted when given the same --out.
    """
    from common.study_file import load_study, override
    from simulations.joining.make import train_pieces, with_personal

    console = Console(stderr=True)
    effective = override(load_study(study), training__rounds=rounds)
    effective = with_personal(with_privacy(effective, epsilon, delta, console), fine_tune_steps)
    folder = out or new_run_folder(f"{effective.name}-joining")
    sites = sites or _simulated(effective, folder, console)
    with console.status("reading the hospitals") as status:

        def on_progress(progress: "Progress") -> None:
            status.update(progress.text)

        try:
            pieces = train_pieces(
                effective,
                sites,
                folder / "pieces",
                seeds=range(num_seeds),
                jobs=jobs,
                leaves_out=leave_out,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            console.print(
                f"Interrupted. The same command with --out {folder} goes on from what is finished.",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(130) from None
        status.update("comparing")
        report = _write(effective, pieces, folder, page)
    name = "joining.json" if as_json else report.name
    typer.echo((folder / name).read_text(encoding="utf-8"), nl=False)
    for title, name in (("Page:", "joining.html"), ("Numbers:", "joining.csv")):
        console.print(f"{title:8} {folder / name}", highlight=False, soft_wrap=True)


def _write(
    study: "Study", pieces: "Mapping[Piece, Measured]", folder: Path, page: Path | None
) -> Path:
    """Writes all files; returns the path of the report."""
    from simulations.joining.compare import findings_of
    from simulations.joining.report import put_into, write_joining

    findings = findings_of(pieces, study)
    if page is not None:
        put_into(page, findings)
    return write_joining(findings, folder)


def _simulated(study: "Study", folder: Path, console: Console) -> Path:
    """Simulated hospitals in the folder of what they are used for; whole ones are used again."""
    from simulations.hospitals_once import simulated_once

    return simulated_once(folder, lambda: _simulate(study, folder, console))


def _simulate(study: "Study", folder: Path, console: Console) -> None:
    simulated_hospitals(study, folder, _NUM_SIMULATED, console, resume=False)
