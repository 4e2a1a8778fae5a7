"""The commands `wardround site up` and `wardround site status`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def site_up(
    site_dir: Annotated[
        Path, typer.Argument(help="The folder with site.toml.", show_default=False)
    ],
    superlink: Annotated[
        str | None,
        typer.Option(
            help="The coordinator's server, HOST:PORT; default: the joined consortium's first."
        ),
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(help="The consortium's CA, PEM; default: ca.pem of the joined consortium."),
    ] = None,
    client_certificate: Annotated[
        Path | None,
        typer.Option(help="For a proxy that wants one, PEM; default: client.pem, if it is there."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS: a trial on one machine.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Where the site process listens, if not in state_dir.")
    ] = None,
    gpu_memory_fraction: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Of its GPU, where several sites share one.")
    ] = 1.0,
) -> None:
    """Keep this hospital's site process and connector running, until told to stop.

    Either is started again when it ends or hangs, and when a study was accepted or a roster joined.
    Exit code 1 if one of them cannot be kept running.
    """
    from client.supervision.up import Settings, up

    settings = Settings(
        superlink=superlink,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        insecure=insecure,
        address=address,
        gpu_memory_fraction=gpu_memory_fraction,
    )
    up(site_dir, settings)


def site_status(
    site_dir: Annotated[
        Path | None,
        typer.Argument(help="The folder with site.toml; without it, --connector-dir is needed."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Where the site process listens, if not in state_dir.")
    ] = None,
    connector_dir: Annotated[
        Path | None, typer.Option(help="Of a connector that has a folder of its own.")
    ] = None,
    without_connector: Annotated[
        bool, typer.Option("--without-connector", help="Look at the site process alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show at one glance whether this hospital's site process and connector work.

    Exit code 0 if they do.
    """
    from client.status import lines_of, status_of

    status = status_of(
        site_dir,
        address=address,
        connector_dir=connector_dir,
        with_connector=not without_connector,
    )
    if as_json:
        typer.echo(json.dumps(status.to_json(), indent=1))
    else:
        for line in lines_of(status):
            typer.echo(line)
    if not status.is_well:
        raise typer.Exit(1)
