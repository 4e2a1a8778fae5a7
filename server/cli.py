"""The coordinator's commands."""

from pathlib import Path
from typing import Annotated

import typer

import server.provision.cli


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Write results.json and report.md again from the journal alone, and print the report."""
    from server.report import write_report

    path = write_report(run)
    typer.echo((run / "results.json" if as_json else path).read_text(encoding="utf-8"))


def mount(app: typer.Typer) -> None:
    """Adds the coordinator's commands to the command line."""
    app.command("report", rich_help_panel="For a researcher")(report)
    app.command("provision", rich_help_panel="For a coordinator")(server.provision.cli.provision)
