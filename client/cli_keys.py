"""The commands `wardround site keys` and `wardround site join`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer


def site_keys(
    site_dir: Annotated[
        Path, typer.Argument(help="The folder with site.toml.", show_default=False)
    ],
    rotate: Annotated[
        bool,
        typer.Option("--rotate", help="Make a new node key, and keep the old one beside it."),
    ] = False,
) -> None:
    """Make this hospital's own keys, and the small public file that it sends to the coordinator.

    Keys that are there already stay as they are. Private keys never leave this machine.
    """
    from client.site_keys import make_site_keys

    made = make_site_keys(site_dir, now=datetime.now(UTC), rotate=rotate)
    if made.kept is not None:
        typer.echo(f"made a new node key; the old one is {made.kept}")
    elif made.is_new:
        typer.echo(f"made this hospital's keys in {made.private_folder}: they never leave it")
    else:
        typer.echo(f"{made.private_folder} has keys already: nothing was changed")
    typer.echo(f"Send this file to the coordinator: {made.public_file}")
    typer.echo("Have the coordinator phone you, and read these fingerprints aloud:")
    typer.echo(f"  signing key  {made.keys.fingerprints['signing_key']}")
    typer.echo(f"  node key     {made.keys.fingerprints['node_key']}")
    if made.kept is not None:
        typer.echo(
            "Until the coordinator has taken the new key into the roster, the server lets this "
            "site in with the old one alone: do not start it again before."
        )


def site_join(
    site_dir: Annotated[
        Path, typer.Argument(help="The folder with site.toml.", show_default=False)
    ],
    folder: Annotated[
        Path, typer.Argument(help="The folder that the coordinator sent.", show_default=False)
    ],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="Of the coordinator's signing key, as heard on the phone; once."),
    ] = None,
) -> None:
    """Take the coordinator's roster and certificate, if they are its own and not older."""
    from client.roster import join_consortium

    roster = join_consortium(site_dir, folder, heard=fingerprint)
    typer.echo(f"roster {roster.serial} of {roster.consortium} accepted, {len(roster.sites)} sites")
    for address in roster.addresses:
        typer.echo(f"server {address}")
