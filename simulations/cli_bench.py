"""The commands `wardround bench`: speed, always beside a baseline in the same run."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.cli_run import AsJson
from simulations.cli_federation import interrupted_by_signals

bench = typer.Typer(help="Measure speed, always as a ratio against a baseline in the same run.")


@bench.command("engine")
def bench_engine(
    full: Annotated[
        bool, typer.Option(help="4, 50 and 200 sites; a quarter of an hour instead of two minutes.")
    ] = False,
    flower: Annotated[
        bool, typer.Option(help="Also measure Flower's runtime, which starts Ray.")
    ] = True,
    study: Annotated[
        str | None, typer.Option(help="With --sites: this study and these hospitals alone.")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Folder of site folders.")] = None,
    as_json: AsJson = False,
) -> None:
    """The in-process engine against a plain loop, and against Flower's simulation runtime."""
    if (study is None) != (sites is None):
        raise typer.BadParameter("expected both --study and --sites, or neither")
    from simulations.bench.engine import bench_engine as measure
    from simulations.bench.engine import bench_study
    from simulations.bench.report import engine_table

    console = Console(stderr=True)
    if study is not None and sites is not None:
        result = bench_study(study, sites)
    else:
        result = measure(full=full, flower=flower, echo=lambda line: console.print(f"… {line}"))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        for table in engine_table(result):
            Console().print(table)


@bench.command("private-step")
def bench_private_step(
    full: Annotated[
        bool, typer.Option(help="All batches and more repetitions; about twenty minutes.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda:0.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """One step of private training against a plain one, and against Opacus's ways of doing it."""
    from client.device import device_of
    from simulations.bench.private_step import bench_private_step as measure
    from simulations.bench.report import private_step_table

    if not re.fullmatch(r"cpu|cuda:[0-9]+", device):
        raise typer.BadParameter(f"expected cpu or cuda:N, found '{device}'")
    device_of(device)  # this machine must have it
    console = Console(stderr=True)
    result = measure(full=full, device=device, echo=lambda line: console.print(f"… {line}"))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        for table in private_step_table(result):
            Console().print(table)


@bench.command("federation")
def bench_federation(
    sites: Annotated[
        list[int] | None, typer.Option(min=2, help="How many sites; repeatable. Default: 4, 8.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each run; the first warms up.")] = 8,
    study: Annotated[str, typer.Option(help="A shipped study.")] = "heart-disease",
    arm: Annotated[
        list[str] | None, typer.Option(help="ours, relay or stock; repeatable. Default: all.")
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Instead: 10 sites, 20 rounds, a model of 10 MB.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A round of real processes with TLS and node authentication, against stock Flower."""
    from simulations.bench.federation.bench import ARMS, bench_load
    from simulations.bench.federation.bench import bench_federation as measure
    from simulations.bench.federation.report import federation_tables, load_tables

    if unknown := set(arm or []) - set(ARMS):
        raise typer.BadParameter(f"expected {', '.join(ARMS)} as --arm, found {min(unknown)!r}")
    console = Console(stderr=True)

    def echo(line: str) -> None:
        console.print(f"… {line}", highlight=False)

    with interrupted_by_signals():
        if load:
            result = bench_load(echo=echo)
        else:
            result = measure(
                study=study, num_sites=sites or (4, 8), rounds=rounds, arms=arm or ARMS, echo=echo
            )
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    for table in load_tables(result) if load else federation_tables(result):
        Console().print(table)
