"""`wardround results` and `wardround effect`: what studies reach, on real and on known patients."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def mount(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command("results", rich_help_panel="For a researcher")(results)
    app.command("effect", rich_help_panel="For a researcher")(effect)


def results(
    name: Annotated[
        str,
        typer.Argument(
            help="eicu-demo, tcga-brca-clinical, tcga-brca, tcga-brca-subtype, hannover-cxr or "
            "heart-disease-5class.",
            show_default=False,
        ),
    ],
    source: Annotated[Path, typer.Option(help="Folder with the files of the data set.")],
    out: Annotated[Path, typer.Option(help="Where the page goes, and all that it is made of.")],
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Overrides the study's rounds, for a quick try.")
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            help="FLamby's published results (TCGA); default: flamby_reference_results beside "
            "--source."
        ),
    ] = None,
) -> None:
    """Write the results page of a real study: all arms, anchors and intervals, from its data.

    Goes on where it was interrupted when given the same --out.
    """
    from simulations.results.make import make_results
    from simulations.results.pages import page_of

    page = page_of(name)
    console = Console(stderr=True)
    with console.status("importing") as status:

        def on_progress(finished: int, total: int, what: str) -> None:
            status.update(f"{finished} of {total} {what}")

        try:
            path = make_results(
                page,
                source=source,
                out=out,
                num_seeds=num_seeds,
                jobs=jobs,
                published=published or source.resolve().parent / "flamby_reference_results",
                rounds=rounds,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            console.print("Interrupted. The same command goes on from what is finished.")
            raise typer.Exit(130) from None
    typer.echo(path.read_text(encoding="utf-8"))
    console.print(f"Page:    {path}", highlight=False, soft_wrap=True)
    console.print(f"Numbers: {path.with_suffix('.csv')}", highlight=False, soft_wrap=True)


def effect(
    run: Annotated[Path, typer.Argument(help="The run of a treatment study.", show_default=False)],
    sites: Annotated[
        Path | None, typer.Option(help="Its simulated hospitals; default: those in the run.")
    ] = None,
) -> None:
    """Score predicted individual treatment effects against a simulation's true ones."""
    from simulations.truth_report import effect_report, effect_table

    typer.echo(effect_table(effect_report(run, sites or run / "hospitals")))
