"""`wardround report` and `wardround compare`: runs as pages, from their journals.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli_run import MlflowStore, TensorBoardFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from server.report.compare import Comparison, Row

_OF_A_RUN = "The folder of a run."


def report(
    run: Annotated[Path, typer.Argument(help=_OF_A_RUN, show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
    opens: Annotated[bool, typer.Option("--open", help="Open report.html in the browser.")] = False,
    mlflow: MlflowStore = None,
    tensorboard: TensorBoardFolder = None,
) -> None:
    """Write results.json, report.md and report.html from the journal, and print the report."""
    import webbrowser

    from server.report import write_report

    path = write_report(run)
    if mlflow is not None or tensorboard is not None:
        from server.sinks.live import sinks_of, tell_run

        tell_run(run, sinks_of(mlflow, tensorboard))
    typer.echo((run / "results.json" if as_json else path).read_text(encoding="utf-8"))
    page = (run / "report.html").resolve()
    typer.echo(f"Page: {page}", err=True)
    if opens and not webbrowser.open(page.as_uri()):
        typer.echo("No browser was found. Open the page yourself.", err=True)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Also write the comparison as an HTML file.")
    ] = None,
) -> None:
    """Show in which settings runs differ, and what each of them reached."""
    from rich.console import Console

    from common.files import write_atomically
    from server.journal import read_journal
    from server.report.compare import compare as compare_runs
    from server.report.html.comparison import comparison_html

    comparison = compare_runs(
        {name: list(read_journal(run / "journal.jsonl")) for name, run in _named(runs).items()}
    )
    _show(comparison, Console())
    if out is not None:
        write_atomically(
            out, comparison_html(comparison).encode(errors="backslashreplace"), durable=False
        )
        typer.echo(f"Page: {out}", err=True)


def _named(runs: list[Path]) -> dict[str, Path]:
    """The runs by the names of their folders, or by their paths where names repeat."""
    names = [run.resolve().name for run in runs]
    return {
        name if names.count(name) == 1 else str(run.resolve()): run
        for name, run in zip(names, runs, strict=True)
    }


def _show(comparison: "Comparison", console: "Console") -> None:
    for outcome, rows in comparison.outcomes.items():
        console.print(_table(f"{outcome}: held-out patients", comparison, rows))
    if comparison.settings:
        console.print(_table("settings that are not the same", comparison, comparison.settings))
    else:
        console.print("These runs have the same settings.")
    for warning in comparison.warnings:
        console.print(warning, markup=False, highlight=False)


def _table(title: str, comparison: "Comparison", rows: "Sequence[Row]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name in ("", *comparison.runs):
        # As text: a name or a value in brackets is no markup.
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in (row.name, *row.cells)))
    return table
