"""The hospital's commands about what it has agreed to, and about what left it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from client.plain_text import plain

if TYPE_CHECKING:
    from client.acceptance import Standing
    from client.agreement import Agreement
    from common.study import Study

SiteDir = Annotated[Path, typer.Argument(help="The folder with site.toml.", show_default=False)]
Hash = Annotated[
    str, typer.Argument(help="Its hash, or the first 8 digits or more.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_NUM_DIGITS = 8

study = typer.Typer(
    help="Which studies this hospital has agreed to.",
    no_args_is_help=True,
)


@study.command("accept")
def accept_study(
    site_dir: SiteDir,
    file: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask (for scripts); needs --hash.")
    ] = False,
    expected_hash: Annotated[
        str | None,
        typer.Option("--hash", help="The whole hash that the study must have.", show_default=False),
    ] = None,
) -> None:
    """Show what a study asks of this hospital, and put on record that a person agrees.

    Exit code 1, and nothing is accepted, unless the folder and the policy can run it and the
    person types the first digits of its hash.
    """
    from client.acceptance import accept, standings
    from client.agreement import agreement_on
    from client.check import check_site
    from client.config import load_site_config
    from client.study_store import read_proposal

    if yes and expected_hash is None:
        _stop("Expected --hash HASH with --yes, found none: a script must name what it accepts.")
    config, proposed = load_site_config(site_dir), read_proposal(file)
    if expected_hash not in (None, proposed.hash):
        _stop(
            f"Expected the study {plain(expected_hash)}, found {proposed.hash}. Nothing was done."
        )
    known = [standing.kept.study for standing in standings(config) if standing.is_accepted]
    checked = check_site(site_dir, proposed)
    for finding in checked.findings:
        _say(f"{finding.severity}: {plain(finding.sentence(), most=1000)}")
    if not checked.is_usable:
        _stop("This hospital cannot take part in the study yet. Nothing was accepted.")
    accepted = [one for one in known if one is not None]
    told = agreement_on(proposed, config, plan=checked.cost or None, accepted=accepted)
    _show(told)
    if not yes:
        _ask(proposed)
    record = accept(config, proposed)
    _say(f"accepted by {plain(record.who)} at {record.at}: {proposed.name} {proposed.hash}")
    _say("A running site takes it up when it is started again.")


@study.command("list")
def list_studies(site_dir: SiteDir, as_json: AsJson = False) -> None:
    """List the studies that were accepted or withdrawn, by whom, when, and if they are intact.

    Exit code 1 if the file of an accepted study is missing or another: the site does not start.
    """
    from client.acceptance import standings
    from client.config import load_site_config

    found = standings(load_site_config(site_dir))
    if as_json:
        typer.echo(json.dumps([_standing_json(standing) for standing in found], indent=1))
    else:
        for standing in found:
            _say(_standing_text(standing))
        if not found:
            _say("No study was ever accepted here.")
    if any(standing.is_accepted and standing.kept.fault for standing in found):
        raise typer.Exit(1)


@study.command("withdraw")
def withdraw_study(site_dir: SiteDir, study_hash: Hash) -> None:
    """Put on record that this hospital takes no more part in a study."""
    from client.acceptance import withdraw
    from client.config import load_site_config

    record = withdraw(load_site_config(site_dir), study_hash)
    _say(f"withdrawn by {plain(record.who)} at {record.at}: {record.study} {record.study_hash}")
    _say("A running site goes on with it until it is stopped: stop it now.")


@study.command("show")
def show_study(site_dir: SiteDir, study_hash: Hash, as_json: AsJson = False) -> None:
    """Show again what was agreed to; exit code 1 if the study's file is not that any more."""
    from client.acceptance import standing_of
    from client.agreement import agreement_on
    from client.config import load_site_config

    config = load_site_config(site_dir)
    standing = standing_of(config, study_hash)
    if standing.kept.study is None:
        _stop(_standing_text(standing))
    told = agreement_on(standing.kept.study, config)
    if as_json:
        typer.echo(json.dumps(_standing_json(standing) | {"agreement": told.to_json()}, indent=1))
    else:
        _say(_standing_text(standing))
        _show(told)


def audit(
    site_dir: SiteDir,
    run: Annotated[
        str | None, typer.Option(help="Show the answers of this run alone.", show_default=False)
    ] = None,
    simulated: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a simulated run, which has logs of its own.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that left this hospital, and verify that the log is what was written.

    Exit code 1 if it is not.
    """
    from client.audit_view import renderables, view_audit
    from client.config import load_site_config

    config = load_site_config(site_dir)
    view = view_audit(
        config.state_dir if simulated is None else simulated / "sites" / site_dir.resolve().name,
        dataset_id=config.dataset_id,
        run_id=run,
        is_simulated=simulated is not None,
    )
    if as_json:
        typer.echo(json.dumps(view.to_json(), indent=1))
    else:
        console = Console()
        for part in renderables(view):
            console.print(part, highlight=False, soft_wrap=True)
    if view.faults:
        raise typer.Exit(1)


def mount(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.add_typer(study, name="study", rich_help_panel="For a hospital")
    app.command("audit", rich_help_panel="For a hospital")(audit)


def _ask(proposed: "Study") -> None:
    """Returns if a person types the first digits of the hash."""
    if not sys.stdin.isatty():
        _stop("Expected a person at a terminal, or --yes with --hash. Nothing was accepted.")
    typed = typer.prompt(f"To accept, type the first {_NUM_DIGITS} digits of the hash")
    if typed.strip() != proposed.hash[:_NUM_DIGITS]:
        _stop("Expected the first digits of the hash, found others. Nothing was accepted.")


def _show(told: "Agreement") -> None:
    lines = [
        f"study          {told.name}",
        f"title          {told.title}",
        f"hash           {told.study_hash}",
        f"outcomes       {', '.join(told.outcomes)}",
        f"granularities  {', '.join(told.granularities)}",
        f"training       {told.training}",
        f"software here  {told.release}, code {told.code}",
        "",
        told.privacy,
        "",
        "One run at this hospital:",
        *(f"  {label}: {value}" for label, value in told.plan.items()),
        "What leaves this hospital:",
        *(f"  {sentence}" for sentence in told.leaves),
    ]
    if told.compared_with is not None:
        lines.append(f"What differs from the accepted study {told.compared_with[:12]}…:")
        lines += [f"  {line}" for line in told.differences]
    _say_all(lines)


def _standing_text(standing: "Standing") -> str:
    act = "accepted" if standing.is_accepted else "withdrawn"
    by = "listed in site.toml" if standing.is_in_policy else ""
    if standing.last is not None:
        last = standing.last
        on_record = f"{last.act.value} by {plain(last.who)} at {last.at}, code {plain(last.code)}"
        by = "; ".join(part for part in (on_record, by) if part)
    name = "" if standing.last is None else f" {plain(standing.last.study)}"
    file = standing.kept.fault or "intact"
    return f"{act:9}  {standing.study_hash}{name}: {by}; file: {file}"


def _standing_json(standing: "Standing") -> dict[str, object]:
    last = standing.last
    return {
        "hash": standing.study_hash,
        "accepted": standing.is_accepted,
        "in_policy": standing.is_in_policy,
        "last": None if last is None else vars(last),
        "file_fault": standing.kept.fault or None,
    }


def _say(text: str) -> None:
    _say_all([text])


def _say_all(lines: Sequence[str]) -> None:
    # As text, not as markup: nothing in it is an instruction to the terminal.
    console = Console()
    for line in lines:
        console.print(Text(line), highlight=False, soft_wrap=True)


def _stop(text: str) -> NoReturn:
    _say(text)
    raise typer.Exit(1)
