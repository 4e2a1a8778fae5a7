"""The coordinator's commands."""

import typer

import server.cli_report
import server.cli_watch
import server.provision.cli
import server.superlink.cli


def mount(app: typer.Typer) -> None:
    """Adds the coordinator's commands to the command line."""
    app.command("report", rich_help_panel="For a researcher")(server.cli_report.report)
    app.command("compare", rich_help_panel="For a researcher")(server.cli_report.compare)
    server.cli_watch.mount(app)
    app.command("provision", rich_help_panel="For a coordinator")(server.provision.cli.provision)
    app.add_typer(server.superlink.cli.server, name="server", rich_help_panel="For a coordinator")
