"""The hospital's commands. Each takes one argument, `SITE_DIR`: the folder with `site.toml`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import client.cli_keys
import client.cli_pretrained
import client.cli_study
import client.cli_up
import client.node

SiteDir = Annotated[Path, typer.Argument(help="The folder with site.toml.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def check_site(
    site_dir: SiteDir,
    study: Annotated[str, typer.Option(help="A study file, or the name of a shipped study.")],
    as_json: AsJson = False,
) -> None:
    """Tell everything that is wrong with a site folder, in counts and never in values.

    Exit code 1 if anything must be mended before the site can take part.
    """
    from client.check import check_site as check
    from common.study_file import load_study

    result = check(site_dir, load_study(study))
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1))
    else:
        console = Console()
        for finding in result.findings:
            style = "red" if finding.severity == "error" else "yellow"
            sentence = escape(finding.sentence())
            console.print(
                f"[{style}]{finding.severity}[/]  {sentence}", highlight=False, soft_wrap=True
            )
        for part, counts in (("training", result.training), ("held out", result.held_out)):
            if counts is not None:
                numbers = ", ".join(f"{n} {name}" for name, n in counts.items())
                console.print(f"{part}: {numbers}", highlight=False)
        if result.cost:
            cost = ", ".join(f"{label} {value}" for label, value in result.cost.items())
            console.print(f"one run here: {escape(cost)}", highlight=False, soft_wrap=True)
        verdict = "[green]can take part[/]" if result.is_usable else "[red]cannot take part yet[/]"
        console.print(f"{escape(result.site)} {verdict}", highlight=False)
    if not result.is_usable:
        raise typer.Exit(1)


def init_site(
    site_dir: SiteDir,
    study: Annotated[
        str | None, typer.Option(help="Also write this study's tables, with their headers.")
    ] = None,
) -> None:
    """Write a commented site.toml for a hospital's data engineer to fill in."""
    from client.template import init_site as init
    from common.study_file import load_study

    for path in init(site_dir, None if study is None else load_study(study)):
        typer.echo(f"wrote {path}")
    typer.echo("Remove the tables of what this hospital does not have.")
    typer.echo(
        f"Next: fill the others in, then `wardround check-site {site_dir} --study STUDY.toml`."
    )


def predict(
    site_dir: SiteDir,
    run: Annotated[Path, typer.Option(help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write; it must not exist.")],
    shared: Annotated[
        bool, typer.Option(help="Use the shared model, even where this hospital has its own.")
    ] = False,
) -> None:
    """Write predictions for this hospital's patients, and what each granularity adds to them.

    The file is for this hospital alone: nothing is sent.
    """
    from client.prediction import predict_site

    predicted = predict_site(site_dir, run, out, shared=shared)
    for note in predicted.notes:
        typer.echo(note)
    typer.echo(
        f"wrote {predicted.num_patients} predictions to {out} (readable by you alone; not sent)"
    )


def ledger(
    site_dir: SiteDir,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a private simulated run, which has ledgers of its own.",
            show_default=False,
        ),
    ] = None,
    second_opinion: Annotated[
        bool, typer.Option(help="Compute epsilon by two other accountants too; takes seconds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was spent on this hospital's patients, by whom, and what is left; check the chain.

    Exit code 1 if the ledger is not whole.
    """
    from client.config import load_site_config
    from client.ledger.view import view_ledger
    from client.ledger_view import renderables
    from common.privacy import accounting

    config = load_site_config(site_dir)
    view = view_ledger(
        config.state_dir if run is None else run / "sites" / site_dir.resolve().name,
        dataset_id=config.dataset_id,
        delta=config.policy.delta_budget,
        budget=config.policy.epsilon_budget,
        second=accounting.second_opinion if second_opinion else None,
    )
    if as_json:
        typer.echo(json.dumps(view.to_json(), indent=1))
    else:
        console = Console()
        for part in renderables(view):
            console.print(part, highlight=False, soft_wrap=True)
    if view.faults:
        raise typer.Exit(1)


def site_serve(
    site_dir: SiteDir,
    address: Annotated[
        str | None,
        typer.Option(help="unix:/path or 127.0.0.1:PORT; default: a socket in state_dir."),
    ] = None,
    gpu_memory_fraction: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Of its GPU, where several sites share one.")
    ] = 1.0,
    socket_group: Annotated[
        str | None,
        typer.Option(
            help="Whose members may connect as well: that of the connector's user.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the site process, which alone reads the data, until it is told to stop.

    Exit code 1 if a task had to be given up.
    """
    from client.agent import serve_command

    serve_command(site_dir, address, gpu_memory_fraction, socket_group)


def mount(app: typer.Typer) -> None:
    """Adds the hospital's commands to the command line."""
    app.command("check-site", rich_help_panel="For a hospital")(check_site)
    app.command("init-site", rich_help_panel="For a hospital")(init_site)
    app.command("ledger", rich_help_panel="For a hospital")(ledger)
    app.command("predict", rich_help_panel="For a hospital")(predict)
    client.cli_study.mount(app)
    client.cli_pretrained.mount(app)
    site = typer.Typer(help="This hospital's keys, its processes, and its place in a consortium.")
    site.command("keys")(client.cli_keys.site_keys)
    site.command("join")(client.cli_keys.site_join)
    site.command("serve")(site_serve)
    site.command("connect")(client.node.node_command)
    site.command("up")(client.cli_up.site_up)
    site.command("status")(client.cli_up.site_status)
    app.add_typer(site, name="site", rich_help_panel="For a hospital")
