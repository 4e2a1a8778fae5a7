"""The connector: it stands between the coordinator's network and the site process.

One resident loop pulls messages for this hospital from Flower's SuperLink, hands their bytes to the
site process, and pushes the reply. It has the network and not the data: it must never read a
patient's file, import torch, or fetch, install or run code that a server offers.
"""

import hashlib
import ipaddress
import logging
import signal
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.client_certificate import load_client_certificate
from common.errors import SiteConfigError
from common.memory import keep_for_good
from common.private_files import read_private
from common.signals import handled


def run_node(
    *,
    superlink: str,
    site_address: str,
    root_certificates: Path | None,
    auth_key: Path | None,
    heartbeat_file: Path,
    stop: threading.Event,
    client_certificate: Path | None = None,
    insecure: bool = False,
    on_loaded: Callable[[], None] = lambda: None,
) -> None:
    """Connects the site process at `site_address` with a SuperLink, until `stop` is set.

    Guarantees:
        - Without TLS and a CA file it starts only if told so, and to loopback alone.
        - A key that others can read is not used.

    Args:
        superlink: HOST:PORT.
        root_certificates: PEM file of the CA that the server's certificate must be signed by.
        auth_key: file of the node's ECDSA key in OpenSSH's form, whose public half the coordinator
            has registered; None for a key of this run alone.
        heartbeat_file: touched while the loop turns: stale after 90 s means wedged. What the
            connector remembers stands beside it.
        client_certificate: PEM file, for a proxy that wants one; over the node's key, if it holds
            none of its own.
        insecure: no TLS.
        on_loaded: called once, when all modules are there.

    Raises:
        SiteConfigError: a file is missing or malformed, TLS is neither on nor given up, or another
            connector uses the same folder.
    """
    # What speaks Flower is imported here: the command line loads neither flwr nor httpx.
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    from client.agent_client import connect
    from client.node_fleet import Fleet
    from client.node_loop import Node
    from client.node_session import Session, only_one

    tls = _tls_context(superlink, root_certificates, insecure=insecure)
    key = ec.generate_private_key(ec.SECP384R1()) if auth_key is None else _load_key(auth_key)
    if tls is not None and client_certificate is not None:
        load_client_certificate(tls, client_certificate, key)
    digest = hashlib.sha256(public_key_to_bytes(key.public_key())).hexdigest()
    folder = heartbeat_file.parent
    with only_one(folder), connect(site_address) as site:
        session = Session(folder / "session.json", superlink=superlink, key_digest=digest)
        node = Node(
            site=site,
            new_fleet=lambda alive: Fleet(superlink=superlink, tls=tls, key=key, on_progress=alive),
            session=session,
            heartbeat_file=heartbeat_file,
            stop=stop,
            is_ephemeral=auth_key is None,
        )
        on_loaded()
        node.run()


def _tls_context(
    superlink: str, root_certificates: Path | None, *, insecure: bool
) -> ssl.SSLContext | None:
    """What a server's certificate is checked against; None for none at all, on loopback."""
    host, _, port = superlink.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SiteConfigError(
            f"Expected the coordinator's server as HOST:PORT, found {superlink!r}. "
            "It is written without https:// and without a path."
        )
    if insecure:
        if root_certificates is not None or not _is_loopback(host.strip("[]")):
            raise SiteConfigError(
                "Expected --insecure with a loopback address and no certificates, found another. "
                "Name the consortium's CA with --root-certificates."
            )
        return None
    if root_certificates is None:
        raise SiteConfigError(
            "Expected the consortium's CA, found none. Name it with --root-certificates; a trial "
            "on one machine may say --insecure."
        )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=root_certificates)
    except OSError as fault:  # ssl.SSLError is one
        raise SiteConfigError(
            f"Expected certificates in PEM, found {type(fault).__name__} ({root_certificates}). "
            "Ask the coordinator for the file again."
        ) from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name is whatever a resolver says


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node's key. Raises `SiteConfigError` as `run_node` says."""
    content = read_private(path, SiteConfigError)
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SiteConfigError(
            "Expected an ECDSA key in OpenSSH's form without a password, found other content "
            f"({path}). The key that signs replies is another: this one is for the connection."
        )
    return key


def node_command(
    site_dir: Annotated[
        Path | None,
        typer.Argument(help="The folder with site.toml; not needed with --connector-dir."),
    ] = None,
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
    auth_key: Annotated[
        Path | None, typer.Option(help="The node's ECDSA key; default: node.key, if it is there.")
    ] = None,
    client_certificate: Annotated[
        Path | None,
        typer.Option(help="For a proxy that wants one, PEM; default: client.pem, if it is there."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Where the site process listens, if not in state_dir.")
    ] = None,
    connector_dir: Annotated[
        Path | None,
        typer.Option(
            help="A folder of its own (node.key, ca.pem, session, heartbeat), for a connector of "
            "another user, who may read neither data nor state_dir; with --address.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS: a trial on one machine.")
    ] = False,
) -> None:
    """Connect a running site process with the coordinator's server, until told to stop.

    It reads site.toml and the files named here, and no data.
    """
    from client.connector_files import connector_files

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request
    files = connector_files(
        site_dir,
        superlink=superlink,
        connector_dir=connector_dir,
        address=address,
        auth_key=auth_key,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
    )
    stop = threading.Event()
    with handled(lambda *_: stop.set(), signal.SIGTERM, signal.SIGINT):
        run_node(
            superlink=files.superlink,
            site_address=files.address,
            # A CA of the consortium is not in the way of a trial without TLS.
            root_certificates=root_certificates if insecure else files.root_certificates,
            auth_key=files.auth_key,
            heartbeat_file=files.heartbeat,
            stop=stop,
            client_certificate=files.client_certificate,
            insecure=insecure,
            on_loaded=keep_for_good,
        )
