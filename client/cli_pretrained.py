"""`wardround pretrained`: the lines by which a study names pretrained weights."""

from pathlib import Path
from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("pretrained", rich_help_panel="For a researcher")(pretrained)


def pretrained(
    folder: Annotated[
        Path, typer.Argument(help="With config.json, tokenizer.json and *.safetensors.")
    ],
) -> None:
    """Check a folder of pretrained weights, and print what a study says of them.

    Loads and runs nothing of it. A hospital sees by the digest that it has the study's weights.
    """
    from client.sources.pretrained_folder import FolderError, read_folder
    from common.errors import StudyError

    try:
        digest, width = read_folder(folder)
    except FolderError as fault:
        raise StudyError(
            f"Expected {fault.expected}, found {fault.found} ({folder}). {fault.action}"
        ) from None
    shown = "WIDTH_OF_AN_EMBEDDING" if width is None else str(width)
    typer.echo('encoder = "pretrained"')
    typer.echo(f'pretrained = {{ digest = "{digest}", width = {shown} }}')
