"""The command `wardround provision`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.roster import Roster
    from server.provision.roster import Changes


def provision(
    consortium: Annotated[Path, typer.Argument(help="CONSORTIUM.toml.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The coordinator's folder, made or brought up to date.")
    ],
    replace: Annotated[
        list[str] | None,
        typer.Option(help="A known site that has made new keys; repeatable.", show_default=False),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make certificates again that end soon or have ended.")
    ] = False,
) -> None:
    """Make a consortium's authority, certificates and roster, and a folder for each hospital."""
    from server.provision.provisioning import provision as make

    made = make(consortium, out, now=datetime.now(UTC), replace=replace or (), renew=renew)
    for path in made.written:
        typer.echo(f"wrote {path}")
    if not made.written:
        typer.echo(f"{out} is up to date; nothing was changed.")
    _tell_changes(made.changes)
    _tell_roster(made.roster)
    for notice in made.notices:
        typer.echo(notice)
    typer.echo(f"Keep {out / 'private'} on this machine; send each hospital its folder in sites/.")
    typer.echo(f"Then: wardround server up {out}")


def _tell_changes(changes: "Changes") -> None:
    for what, names in (
        ("new; the server takes its node from the next start or run on", changes.added),
        ("other keys, from the next start or run on; give the proxy crl.pem", changes.replaced),
        (
            "takes part no longer, from the next start or run on; give the proxy crl.pem",
            changes.removed,
        ),
    ):
        for name in names:
            typer.echo(f"{name}: {what}")


def _tell_roster(roster: "Roster") -> None:
    typer.echo(f"roster {roster.serial} of {roster.consortium}, {len(roster.sites)} sites")
    typer.echo("Compare on the phone, at numbers that did not come with the files:")
    typer.echo(f"  coordinator  signing key {roster.coordinator_fingerprint}")
    for site in roster.sites:
        typer.echo(f"  {site.name}  signing key {site.fingerprints['signing_key']}")
        typer.echo(f"  {site.name}  node key    {site.fingerprints['node_key']}")
