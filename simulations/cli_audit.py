"""`wardround audit-privacy`: a run attacked, before anybody else does.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from server.cli_run import AsJson

if TYPE_CHECKING:
    from rich.table import Table

AUDIT_FILE = "audit.json"
_VERDICTS = {
    "held": "No attack refutes the privacy that this run claims.",
    "broken": (
        "The privacy that this run claims is refuted: an audit proves, at 99.9 % confidence, that "
        "epsilon is higher. Do not release this model; find what is wrong with noise, clip, sample "
        "rate or accounting first."
    ),
    "unclear": (
        "The audit could not vouch for the privacy that this run claims: the noise of its training "
        "is not normal, as its accounting assumes. Do not release this model before it is known "
        "why."
    ),
    "no claim": (
        "This run claims no privacy, so there is nothing to refute; the table shows what the "
        "attacks reach."
    ),
}


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("audit-privacy", rich_help_panel="For a privacy officer")(audit_privacy)


def audit_privacy(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    sites: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run's site folders. Default: the hospitals simulated in the run's "
            "folder; where there are none, patients simulated for its study."
        ),
    ] = None,
    shadows: Annotated[
        int | None,
        typer.Option(min=3, help="Shadow models against each target. Default: 16; quick: 4."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Canaries alone with a small model, few shadows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Attack a run: canaries for a lower bound of epsilon, shadow models for membership.

    Trains the run's study anew, writes audit.json and the report's section “Audited”, and ends with
    exit code 1 if what the run claims is refuted at 99.9 %, or cannot be judged.
    """
    from common.files import write_atomically
    from server.journal import Journal
    from server.report import write_report
    from simulations.attacks.audit_run import audit_run, audit_to_json, num_pieces, recorded

    console = Console(stderr=True)
    attacked = recorded(run, sites)
    if attacked.is_simulated:
        console.print(
            "This run's patients are not on this machine: the audit simulates patients for its "
            "study. Name their site folders by --sites to audit on them.",
            highlight=False,
        )
    started = time.monotonic()
    try:
        with _Progress(console, num_pieces(shadows, is_quick=quick)) as progress:
            audit = audit_run(
                attacked,
                num_shadows=shadows,
                jobs=jobs,
                is_quick=quick,
                tell=progress.tell,
                on_wait=progress.refresh,
            )
    except KeyboardInterrupt:
        console.print("Interrupted; nothing was written. Give the same command again.")
        raise typer.Exit(130) from None
    written = audit_to_json(audit, seconds=time.monotonic() - started)
    text = json.dumps(written, indent=1, allow_nan=False)
    write_atomically(run / AUDIT_FILE, text.encode(), durable=False)
    journal = Journal(run / "journal.jsonl")
    try:
        journal.write("privacy_audited", **written)
    finally:
        journal.close()
    write_report(run)
    _tell(written, run, console, as_json=as_json)
    if audit.verdict in ("broken", "unclear"):
        raise typer.Exit(1)


def _tell(written: dict[str, Any], run: Path, console: Console, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(written, indent=1))
    else:
        Console().print(_table(written))
    # To stderr, so that what is printed for machines is JSON alone.
    console.print(_VERDICTS[written["verdict"]], highlight=False, soft_wrap=True)
    console.print(f"Audit:  {run / AUDIT_FILE}", highlight=False, soft_wrap=True)
    console.print(f"Report: {run / 'report.html'}", highlight=False, soft_wrap=True)


def _table(written: dict[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from server.report.html.audits import claimed_text, reached_text

    table = Table(title="What attacks reach", title_justify="left")
    for name in ("attack", "target", "reached", "claimed"):
        table.add_column(name)
    for finding in written["findings"]:
        cells = (
            finding["attack"],
            finding["target"],
            reached_text(finding),
            claimed_text(finding),
        )
        table.add_row(*map(Text, cells))
    return table


class _Progress:
    """How much is done, and about how long the rest takes."""

    def __init__(self, console: Console, num_pieces: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
        )
        # A model takes longer than what rich looks back on by default.
        self._progress.speed_estimate_period = 3600.0
        self._task = self._progress.add_task("training with canaries", total=num_pieces)

    def tell(self, _: str) -> None:
        self._progress.update(self._task, advance=1, description="training shadow models")

    def refresh(self) -> None:
        self._progress.refresh()

    def __enter__(self) -> "_Progress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
