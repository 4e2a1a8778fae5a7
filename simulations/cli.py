"""The command `wardround`: one machine's commands, and those of the hospital and the coordinator.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import client.cli
import client.cli_dossier
import client.cli_explain
import server.cli
import simulations.cli_audit
import simulations.cli_experiment
import simulations.cli_joining
import simulations.cli_results
import simulations.cli_self_test
import simulations.cli_simulate
from common.code_version import code_fingerprint, release
from common.errors import WardroundError
from server.cli_run import AsJson, Delta, Rounds, StudyName, new_run_folder, with_privacy
from simulations.cli_bench import bench as bench_app
from simulations.cli_data import data as data_app
from simulations.cli_federation import federation as federation_app
from simulations.cli_simulate import Sites

if TYPE_CHECKING:
    from common.study import Study

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"wardround {release()}, code {code_fingerprint()}")
        raise typer.Exit


@app.callback()
def wardround(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_tell_version,
            is_eager=True,
            help="Show release and code; hospitals and coordinator need the same code.",
        ),
    ] = False,
) -> None:
    """Federated learning that hospitals would choose."""


app.command(rich_help_panel="For a researcher")(simulations.cli_simulate.simulate)


@app.command(rich_help_panel="For a researcher")
def arms(
    study: StudyName,
    sites: Sites = None,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    without: Annotated[
        list[str] | None, typer.Option(help="Also run without this granularity; repeatable.")
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="Also run with this much privacy for each patient; repeatable."),
    ] = None,
    delta: Delta = None,
    rounds: Rounds = None,
    validation_fold: Annotated[
        int | None,
        typer.Option(min=0, help="Choose settings: judge on this fold of the training patients."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Default: runs/STUDY-arms-TIME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare local only, federated and pooled training on the same splits and seeds."""
    from common.run_folder import check_unused
    from common.study_file import load_study, override, without_granularity, without_privacy
    from simulations.arms import run_arms
    from simulations.arms_report import write_arms

    effective = override(
        load_study(study), training__rounds=rounds, evaluation__validation_fold=validation_fold
    )
    console = Console(stderr=True)
    variants = {"all granularities": effective}
    if delta is not None and not epsilon:
        raise typer.BadParameter("--delta needs --epsilon")
    if epsilon:
        variants = {"no privacy": without_privacy(effective)}
        variants |= {f"epsilon {e:g}": with_privacy(effective, e, delta, console) for e in epsilon}
    variants |= {f"without {g}": without_granularity(effective, g) for g in without or []}
    folder = out or new_run_folder(f"{effective.name}-arms")
    check_unused(folder)
    sites = sites or _simulated_sites(effective, folder, console)
    with console.status("") as status:
        done: list[str] = []

        def on_done(name: str) -> None:
            done.append(name)
            status.update(f"{len(done)} of {len(variants) * num_seeds} finished, last: {name}")

        status.update(f"0 of {len(variants) * num_seeds} finished")
        results = run_arms(
            variants, sites, folder, seeds=range(num_seeds), jobs=jobs, on_done=on_done
        )
    report = write_arms(results, folder, study=effective)
    if as_json:
        typer.echo(json.dumps({"arms": [asdict(r) for r in results]}, indent=1))
    else:
        typer.echo(report.read_text(encoding="utf-8"))
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel="For a researcher")
def missing(
    study: StudyName,
    sites: Sites = None,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    rounds: Rounds = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            "--granularity-dropout",
            help="Overrides the study's: the part of a patient's granularities that are hidden in "
            "training.",
        ),
    ] = None,
    lacking: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOSPITAL=NAME,NAME",
            help="Granularities that a hospital has and is to train without; may be given for "
            "several hospitals. Its held-out patients keep them.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Default: runs/STUDY-missing-TIME.")] = None,
) -> None:
    """Predict from every subset of granularities: ours against zero-filling, and more."""
    from common.run_folder import check_unused
    from common.study_file import load_study, override
    from simulations.lacking import lacking_of
    from simulations.missing import run_missing
    from simulations.missing_report import write_missing

    effective = override(
        load_study(study), training__rounds=rounds, model__granularity_dropout=dropout
    )
    taken = lacking_of(lacking or [])
    folder = out or new_run_folder(f"{effective.name}-missing")
    check_unused(folder)
    console = Console(stderr=True)
    sites = sites or _simulated_sites(effective, folder, console)
    with console.status(f"0 of {num_seeds} seeds finished") as status:
        done: list[str] = []

        def on_done(name: str) -> None:
            done.append(name)
            status.update(f"{len(done)} of {num_seeds} seeds finished")

        results = run_missing(
            effective, sites, seeds=range(num_seeds), jobs=jobs, lacking=taken, on_done=on_done
        )
    report = write_missing(results, folder, study=effective, lacking=taken)
    typer.echo(report.read_text(encoding="utf-8"))
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel="For a researcher")
def studies(
    name: Annotated[str | None, typer.Argument(help="Print this study, to start one from.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies that are shipped, or print one of them as TOML."""
    from common.study_file import load_study, shipped_studies, shipped_text

    if name is not None:
        typer.echo(shipped_text(name))
        return
    loaded = [load_study(name) for name in shipped_studies()]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"name": s.name, "title": s.study.title, "hash": s.hash} for s in loaded
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    for study in loaded:
        typer.echo(f"{study.name:28} {study.study.title}")


app.add_typer(federation_app, name="federation", rich_help_panel="For a researcher")
app.add_typer(data_app, name="data", rich_help_panel="For a researcher")
app.add_typer(bench_app, name="bench", rich_help_panel="For a researcher")
simulations.cli_results.mount(app)
simulations.cli_joining.mount(app)
simulations.cli_experiment.mount(app)
simulations.cli_audit.mount(app)
client.cli.mount(app)
client.cli_explain.mount(app)
client.cli_dossier.mount(app)
simulations.cli_self_test.mount(app)
server.cli.mount(app)


def _simulated_sites(study: "Study", folder: Path, console: Console) -> Path:
    """Six simulated hospitals of the study, in the folder of what they are used for."""
    from simulations.cohort import varied_sites, write_cohort

    sites = folder / "hospitals"
    console.print(f"No --sites: simulating 6 hospitals in {sites}.", highlight=False)
    write_cohort(study, varied_sites(study, num_sites=6, seed=0), sites, seed=0)
    return sites


def main() -> None:
    """Runs the command line; an error that a user can act on is one sentence and exit code 1.

    Guarantees:
        - Of an error that nobody foresaw, its place and class are told, and never its text: that
          may quote a patient's record, and logs of processes are kept.
    """
    try:
        app()
    except WardroundError as error:
        Console(stderr=True).print(
            f"[red]{error.code}[/]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
    except Exception as fault:  # noqa: BLE001  # its text may hold a value, which no caller could tell
        typer.echo("".join(traceback.format_tb(fault.__traceback__)), err=True, nl=False)
        typer.echo(
            f"{type(fault).__name__}: expected no such error, found one here. Its text is "
            "withheld: it may quote a patient's record. Report the lines above.",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
