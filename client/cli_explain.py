"""`wardround explain`: what a model makes of a hospital's own patients, for its own eyes.

Imports stay lazy: `--help` loads neither torch nor captum.
"""

from pathlib import Path
from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("explain", rich_help_panel="For a hospital")(explain)


def explain(
    site_dir: Annotated[
        Path, typer.Argument(help="The folder with site.toml.", show_default=False)
    ],
    run: Annotated[Path, typer.Option(help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    sensitivity: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Also choose a threshold that finds this part of the patients."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A feature to group patients by; repeatable; default: sex and age."),
    ] = None,
    shared: Annotated[
        bool, typer.Option(help="Use the shared model, even where this hospital has its own.")
    ] = False,
) -> None:
    """Show what a model's predictions rest on and how far they can be trusted, here.

    Writes explain.html and tables about this hospital's held-out patients, for this hospital alone:
    nothing is sent.
    """
    from rich.console import Console

    from client.explain.explain import explain_site

    with Console(stderr=True).status("reading") as status:
        explained = explain_site(
            site_dir,
            run,
            out,
            sensitivity=sensitivity,
            by=by or (),
            shared=shared,
            on_progress=status.update,
        )
    for note in explained.notes:
        typer.echo(note)
    typer.echo(
        f"wrote {explained.page}, of {explained.num_patients} held-out patients, and its tables "
        "(the folder can be opened by you alone; nothing was sent)"
    )
