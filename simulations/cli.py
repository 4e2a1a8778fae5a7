"""The command `wardround`: one machine's commands, and those of the hospital and the coordinator.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import client.cli
import server.cli
import simulations.cli_results
from common.errors import WardroundError
from simulations.cli_data import data as data_app

if TYPE_CHECKING:
    from common.study import Study

app = typer.Typer(
    help="Federated learning that hospitals would choose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure speed, always as a ratio against a baseline in the same run.")

StudyName = Annotated[
    str, typer.Argument(help="A study file, or the name of a shipped study.", show_default=False)
]
Sites = Annotated[
    Path | None, typer.Option(help="Folder of site folders; without it, hospitals are simulated.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Overrides the study's seed.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Overrides the study's rounds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command(rich_help_panel="For a researcher")
def simulate(
    study: StudyName,
    sites: Sites = None,
    rounds: Rounds = None,
    seed: Seed = None,
    strategy: Annotated[
        str | None, typer.Option(help="fedavg, fedprox, fedadam, fedyogi or fedadagrad.")
    ] = None,
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
    as_json: AsJson = False,
) -> None:
    """Train one model across hospitals on this machine, and report each hospital's result."""
    from common.run_folder import check_unused, check_used
    from common.study_file import load_study, override
    from simulations.cohort import varied_sites, write_cohort
    from simulations.progress import Progress, results_tables
    from simulations.simulate import Simulation
    from simulations.simulate import simulate as run

    if engine not in ("in-process", "flower"):
        raise typer.BadParameter(f"expected in-process or flower, found '{engine}'")
    if engine == "flower" and durable:
        raise typer.BadParameter("--durable is for the in-process engine")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to go on with")
    effective = override(
        load_study(study),
        training__rounds=rounds,
        training__seed=seed,
        strategy__name=strategy,
    )
    folder = out or _new_run_folder(effective.name)
    (check_used if resume else check_unused)(folder)
    console = Console(stderr=as_json)
    if sites is None:
        sites = folder / "hospitals"
        if not resume:
            console.print(
                f"No --sites: simulating {num_sites} hospitals with this study's features in "
                f"{sites} (no real patients).",
                highlight=False,
            )
            effects = varied_sites(effective, num_sites=num_sites, seed=effective.training.seed)
            write_cohort(effective, effects, sites, seed=effective.training.seed)
    simulation = Simulation(
        study=effective,
        sites=sites,
        out=folder,
        resume=resume,
        durable=durable,
        init_from=init_from,
    )
    try:
        if engine == "flower":
            from simulations.flower_runtime import run_on_flower

            run_on_flower(effective, sites, folder, resume=resume, init_from=init_from)
        else:
            with Progress(console) as progress:
                run(simulation, listeners=[progress.listen])
    except KeyboardInterrupt:
        console.print(f"Interrupted. Go on with the same command, --out {folder} and --resume.")
        raise typer.Exit(130) from None
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    for table in results_tables(results):
        console.print(table)
    console.print(f"Report:  {folder / 'report.md'}", highlight=False, soft_wrap=True)
    console.print(f"Results: {folder / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"Model:   {folder / 'model.safetensors'}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel="For a researcher")
def arms(
    study: StudyName,
    sites: Sites = None,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    without: Annotated[
        list[str] | None, typer.Option(help="Also run without this granularity; repeatable.")
    ] = None,
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
    from common.study_file import load_study, override, without_granularity
    from simulations.arms import run_arms
    from simulations.arms_report import write_arms

    effective = override(
        load_study(study), training__rounds=rounds, evaluation__validation_fold=validation_fold
    )
    variants = {"all granularities": effective}
    variants |= {f"without {g}": without_granularity(effective, g) for g in without or []}
    folder = out or _new_run_folder(f"{effective.name}-arms")
    check_unused(folder)
    console = Console(stderr=True)
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
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Default: runs/STUDY-missing-TIME.")] = None,
) -> None:
    """Predict from every subset of granularities: ours against zero-filling, and more."""
    from common.run_folder import check_unused
    from common.study_file import load_study, override
    from simulations.missing import run_missing
    from simulations.missing_report import write_missing

    effective = override(load_study(study), training__rounds=rounds)
    folder = out or _new_run_folder(f"{effective.name}-missing")
    check_unused(folder)
    console = Console(stderr=True)
    sites = sites or _simulated_sites(effective, folder, console)
    with console.status(f"0 of {num_seeds} seeds finished") as status:
        done: list[str] = []

        def on_done(name: str) -> None:
            done.append(name)
            status.update(f"{len(done)} of {num_seeds} seeds finished")

        results = run_missing(effective, sites, seeds=range(num_seeds), jobs=jobs, on_done=on_done)
    report = write_missing(results, folder, study=effective)
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
        typer.echo(f"{study.name:24} {study.study.title}")


@bench.command("engine")
def bench_engine(
    full: Annotated[
        bool, typer.Option(help="4, 50 and 200 sites; a quarter of an hour instead of two minutes.")
    ] = False,
    flower: Annotated[
        bool, typer.Option(help="Also measure Flower's runtime, which starts Ray.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """The in-process engine against a plain loop, and against Flower's simulation runtime."""
    from simulations.bench.engine import bench_engine as measure
    from simulations.bench.report import engine_table

    console = Console(stderr=True)
    result = measure(full=full, flower=flower, echo=lambda line: console.print(f"… {line}"))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        for table in engine_table(result):
            Console().print(table)


app.add_typer(data_app, name="data", rich_help_panel="For a researcher")
app.add_typer(bench, name="bench", rich_help_panel="For a researcher")
simulations.cli_results.mount(app)
client.cli.mount(app)
server.cli.mount(app)


def _simulated_sites(study: "Study", folder: Path, console: Console) -> Path:
    """Six simulated hospitals of the study, in the folder of what they are used for."""
    from simulations.cohort import varied_sites, write_cohort

    sites = folder / "hospitals"
    console.print(f"No --sites: simulating 6 hospitals in {sites}.", highlight=False)
    write_cohort(study, varied_sites(study, num_sites=6, seed=0), sites, seed=0)
    return sites


def _new_run_folder(study_name: str) -> Path:
    return Path("runs") / f"{study_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def main() -> None:
    """Runs the command line; an error that a user can act on is one sentence and exit code 1."""
    try:
        app()
    except WardroundError as error:
        Console(stderr=True).print(
            f"[red]{error.code}[/]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
