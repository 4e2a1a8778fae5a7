"""`wardround site self-test`: see for yourself what would leave your hospital.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
import secrets
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.cli import SiteDir
from server.cli_run import AsJson
from simulations.cli_federation import interrupted_by_signals

if TYPE_CHECKING:
    from common.study import Study
    from simulations.self_test import SelfTest


def self_test(
    site_dir: SiteDir,
    study: Annotated[
        str | None,
        typer.Option(
            help="A study file, or the name of a shipped study. Default: all accepted ones.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes",
            help="Also rehearse with real processes, TLS and a SuperLink; a minute more.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would leave this hospital, and search it for values planted in a copy of its data.

    Nothing is sent. The copy is deleted at the end. Exit code 1 if a planted value was found.
    """
    from simulations.self_test import run_self_test

    console = Console(stderr=True)
    results = []
    try:
        # So that its copy is deleted, however the test is told to end.
        with interrupted_by_signals() as interruption, console.status("") as status:
            for one in _studies(site_dir, study):
                results.append(
                    run_self_test(
                        site_dir,
                        one,
                        seed=secrets.randbits(63),
                        with_processes=processes,
                        tell=lambda text, name=one.name: _tell(  # type: ignore[misc]
                            console, status.update, f"{name}: {text}"
                        ),
                        look=interruption.check,
                    )
                )
    except KeyboardInterrupt:
        console.print("Interrupted; the copy of the data is deleted.", highlight=False)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps({"self_tests": [result.to_json() for result in results]}, indent=1))
    else:
        for result in results:
            _print(result)
    if any(result.hits for result in results):
        raise typer.Exit(1)


def _studies(site_dir: Path, name: str | None) -> "list[Study]":
    """The named study, or all accepted ones. Raises `SiteConfigError` if there are none."""
    from client.acceptance import accepted_studies
    from client.config import load_site_config
    from common.errors import SiteConfigError
    from common.study_file import load_study

    if name is not None:
        return [load_study(name)]
    accepted = list(accepted_studies(load_site_config(site_dir)).values())
    if not accepted:
        raise SiteConfigError(
            "Expected an accepted study to rehearse, found none. Name one by --study STUDY.toml."
        )
    return accepted


def _tell(console: Console, update: Callable[[str], None], text: str) -> None:
    """Shows `text` in place of the last one, or on a line of its own without a terminal."""
    if console.is_terminal:
        update(text)
    else:
        console.print(text, highlight=False, soft_wrap=True)


def _print(result: "SelfTest") -> None:
    console = Console()
    for message, fields in groupby(result.fields, key=lambda field: field.message):
        console.print(
            f"[bold]{result.site}, study {result.study}: what it sends for '{message}'[/]",
            highlight=False,
        )
        for f in fields:
            console.print(
                f"  {f.record}.{f.name}: {f.dtype}{f.shape}, {f.size_bytes} bytes: {f.what}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
    answers = ", ".join(f"{count} × {status}" for status, count in result.answers.items())
    for line in (
        f"{result.num_messages} messages of {result.num_bytes} bytes in all: {answers}.",
        f"Searched for {result.num_canaries} planted values of {result.num_patients} patients, as "
        "text, UTF-16, hex, base64 and floating point, in these messages and in "
        f"{result.num_files} files: books, logs, journal, checkpoints, report.",
        *(f"FOUND in {h.where}: a value of {h.planted}, as {h.form}" for h in result.hits),
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    color = "red" if result.hits else "green"
    console.print(f"[{color}]{len(result.hits)} found[/]", highlight=False)


def mount(app: typer.Typer) -> None:
    """Adds the command to the group `site`; it needs a coordinator's code, which no site has."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    site = groups["site"]
    if site is None:
        raise ValueError("expected the group 'site' to be there")
    site.command("self-test")(self_test)
