"""`wardround dossier`: all that left a hospital and what it cost, signed; and whether it is so."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from client.plain_text import plain


def mount(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command("dossier", rich_help_panel="For a hospital")(dossier)


def dossier(
    site_dir: Annotated[
        Path | None, typer.Argument(help="The folder with site.toml.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for dossier.html and dossier.json.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="The folder of a simulated run, which has books of its own; or the id of a run, "
            "to tell of it alone.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    verify: Annotated[
        Path | None,
        typer.Option(help="Instead: check this dossier.json, and the page beside it."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="With --verify: the hospital's file of public keys.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="With --verify: of the hospital's signing key, as heard on the phone."),
    ] = None,
) -> None:
    """Write what left this hospital, to whom, what it cost and what could be done with it, signed.

    Exit code 1 if a chain is broken, or if what is verified is not by this hospital.
    """
    if verify is not None:
        return _verify(verify, site_dir, run, key, fingerprint)
    if site_dir is None or (out is None and not as_json):
        raise typer.BadParameter("expected SITE_DIR with --out DIR or --json, or --verify FILE")
    from client.audit import utc_now
    from client.dossier.contents import faults_of
    from client.dossier.making import make_dossier
    from client.dossier.signed import write_dossier

    made = make_dossier(site_dir, run, made_at=utc_now())
    if as_json:
        typer.echo(made.to_bytes().decode(), nl=False)
    faults = faults_of(made.dossier)
    for path in () if out is None else write_dossier(made, out):
        typer.echo(f"wrote {path} (readable by you alone; not sent)", err=as_json)
    for fault in faults:
        _say(f"fault: {fault}", "red")
    if faults:
        raise typer.Exit(1)
    return None


def _verify(
    path: Path, site_dir: Path | None, run: str | None, key: Path | None, heard: str | None
) -> None:
    from client.dossier.signed import verdict_on

    verdict = verdict_on(path, _key_to_trust(path, site_dir, run, key, heard))
    if not verdict.is_signed:
        _stop("The dossier is NOT signed by this hospital's key. Believe nothing of it.")
    kind = "simulated hospital" if verdict.is_simulation else "hospital"
    _say(f"signed by {kind} {verdict.site}, {verdict.made_at}", "green")
    beside = {
        "same": ("the page beside it is the one of this dossier", "green"),
        "other": ("the page beside it tells something else, or is of another version", "red"),
        "none": ("no page lies beside it", ""),
    }
    _say(*beside[verdict.page])
    for fault in verdict.faults:
        _say(f"its books were not whole: {fault}", "red")
    if not verdict.is_good:
        raise typer.Exit(1)


def _key_to_trust(
    path: Path, site_dir: Path | None, run: str | None, key: Path | None, heard: str | None
) -> str:
    """The public key that the dossier must be signed by. Exits if nobody says which."""
    from client.dossier.making import Books
    from client.dossier.signed import read_dossier
    from common.site_keys import fingerprint, is_heard, read_public_key_file

    held: str | None = None
    if key is not None:
        held = read_public_key_file(key).signing_key
    elif site_dir is not None:
        own = Books.of(site_dir, run).key()
        held = "" if own is None else own.public_key
    if held is not None and heard is None:
        return held
    claimed = read_dossier(path).dossier["public_key"] if held is None else held
    if not isinstance(claimed, str):
        _stop("The dossier is NOT signed: that of a simulation without privacy never is.")
    if heard is None:
        _stop(
            "Expected whose key to trust, found none: give --key FILE, SITE_DIR, or --fingerprint. "
            f"The dossier names the key {fingerprint(bytes.fromhex(claimed))}: have the hospital "
            "read its own to you on the phone."
        )
    if not is_heard(heard, bytes.fromhex(claimed)):
        if held is not None:
            _stop("The key to trust is NOT the one of this fingerprint. Believe neither.")
        _stop("The dossier is NOT signed by the key of this fingerprint. Believe nothing of it.")
    return claimed


def _say(text: str, style: str = "") -> None:
    # As text, not as markup: run ids in it are the coordinator's.
    line = Text(plain(text, most=2000), style=style)
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


def _stop(text: str) -> NoReturn:
    _say(text, "red")
    raise typer.Exit(1)
