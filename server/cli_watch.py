"""`wardround watch`: a page that follows a run.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("watch", rich_help_panel="For a researcher")(watch)


def watch(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="The folder of a run, begun or not; default: the newest below --runs.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Without RUN: where runs are.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    exposed: Annotated[
        bool,
        typer.Option(
            "--exposed", help="Listen at an address that others can reach: all may read the page."
        ),
    ] = False,
) -> None:
    """Serve a page that shows a run as it goes: rounds, hospitals, metrics and privacy.

    It reads the run's journal alone, and neither helps nor hinders the run. Ctrl-C ends it.
    """
    from server.watch.guard import is_loopback

    console = Console(stderr=True)
    if not is_loopback(host) and not exposed:
        raise typer.BadParameter(
            f"{host} can be reached by others, and the page has no password. Leave --host out and "
            "come through SSH (ssh -L), or say --exposed."
        )
    if not is_loopback(host):
        console.print(
            f"Warning: whoever reaches {host} can read the page, without password or encryption.",
            highlight=False,
            soft_wrap=True,
        )
    _serve(run, runs, host, port, console, opens=opens)


def _serve(
    run: Path | None, parent: Path, host: str, port: int, console: Console, *, opens: bool
) -> None:
    import webbrowser

    from server.watch.runs import runs_to_watch
    from server.watch.service import Service

    watched = runs_to_watch(run, parent)

    def on_ready(url: str) -> None:
        console.print(f"Watching {watched.first}", markup=False, highlight=False, soft_wrap=True)
        others = [name for name in watched.names if name != watched.first.name]
        if others:
            shown = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
            console.print(f"Other runs: {shown}", markup=False, highlight=False, soft_wrap=True)
        console.print("Ctrl-C ends it; the run goes on.", highlight=False)
        typer.echo(url)
        if opens and not webbrowser.open(url):
            console.print("No browser was found. Open the page yourself.", highlight=False)

    # The signal is not always raised again: a server that has ended is one that was interrupted.
    with suppress(KeyboardInterrupt):
        Service(watched, host=host, port=port, on_ready=on_ready).run()
    console.print("Ended.")
