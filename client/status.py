"""One glance at a hospital: whether its two processes work, and what they work for.

Reads only, and no data: it asks the site process for its health, and looks at what the connector
and the site keep in `state_dir`. Must not import torch or flwr.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from client.acceptance import standings
from client.agent_address import default_address
from client.agent_client import connect
from client.audit import audit_path
from client.config import load_site_config
from client.connector_files import HEARTBEAT_FILE
from client.plain_text import plain
from common.errors import SiteConfigError, SiteProcessError

# As `client.supervision.keep` judges it.
_STALE_S = 90.0
_CONNECTED = "connected"  # as `client.node_loop` writes it
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """How the site process is.

    Attributes:
        state: "serving"; "waiting", which loads, ends or works off what it has; "away".
        studies: names of the studies that are accepted.
        fault: why they cannot be told; "" if they can.
        last_answer: when the last line of the audit log was written, UTC; None before the first.
    """

    state: Literal["serving", "waiting", "away"]
    studies: tuple[str, ...]
    fault: str
    last_answer: str | None

    @property
    def is_well(self) -> bool:
        """Whether tasks are answered."""
        return self.state == "serving" and not self.fault


@dataclass(frozen=True, kw_only=True)
class ConnectorState:
    """How the connector is.

    Attributes:
        state: "connected"; "not connected", and tries; "stale", which hangs or was killed; "away".
        why: the connector's own words; "" unless it is not connected.
        age_s: of its heartbeat, by this machine's clock; None where there is none.
    """

    state: Literal["connected", "not connected", "stale", "away"]
    why: str
    age_s: float | None

    @property
    def is_well(self) -> bool:
        """Whether tasks come in."""
        return self.state == "connected"


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a hospital is; None for a part that was not asked for."""

    site: SiteState | None
    connector: ConnectorState | None

    @property
    def is_well(self) -> bool:
        """Whether every part that was asked for is well."""
        return all(part is None or part.is_well for part in (self.site, self.connector))

    def to_json(self) -> dict[str, Any]:
        """The status as plain values."""
        return asdict(self) | {"well": self.is_well}


def status_of(
    site_dir: Path | None,
    *,
    address: str | None = None,
    connector_dir: Path | None = None,
    with_connector: bool = True,
) -> Status:
    """How the hospital of `site_dir` is, or without it, the connector of `connector_dir`.

    Raises:
        SiteConfigError: neither is named, or `site.toml` cannot be used.
    """
    if site_dir is None:
        if connector_dir is None:
            raise SiteConfigError("Expected SITE_DIR or --connector-dir, found neither. Name one.")
        return Status(site=None, connector=_connector(connector_dir))
    state_dir = load_site_config(site_dir).state_dir
    folder = connector_dir or state_dir / "connector"
    return Status(
        site=_site(site_dir, address or default_address(state_dir)),
        connector=_connector(folder) if with_connector else None,
    )


def _site(site_dir: Path, address: str) -> SiteState:
    config = load_site_config(site_dir)
    with connect(address) as site:
        try:
            state: Literal["serving", "waiting", "away"] = (
                "serving" if site.says_serving() else "waiting"
            )
        except SiteProcessError:
            state = "away"
    studies, fault = _studies(site_dir)
    return SiteState(
        state=state,
        studies=studies,
        fault=fault,
        last_answer=_last_time(audit_path(config.state_dir)),
    )


def _studies(site_dir: Path) -> tuple[tuple[str, ...], str]:
    """The names of the accepted studies, and why one of them cannot be used."""
    try:
        accepted = [s for s in standings(load_site_config(site_dir)) if s.is_accepted]
    except SiteConfigError as fault:
        return (), str(fault)
    names = tuple(plain(s.kept.study.name) for s in accepted if s.kept.study is not None)
    lost = next((s for s in accepted if s.kept.study is None), None)
    return names, "" if lost is None else f"{lost.study_hash[:12]}…: {lost.kept.fault}"


def _last_time(path: Path) -> str | None:
    """When the last whole line of a log was written; the chain is `wardround audit`'s to verify."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    # What follows the last newline is torn.
    for line in reversed(lines[:-1]):
        try:
            return plain(json.loads(line)["at"], most=40)
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _connector(folder: Path) -> ConnectorState:
    path = folder / HEARTBEAT_FILE
    try:
        # Ahead of the clock by as much is as far off: one of both has been set.
        age_s = time.time() - path.stat().st_mtime
        said = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ConnectorState(state="away", why="", age_s=None)
    if abs(age_s) > _STALE_S:
        return ConnectorState(state="stale", why="", age_s=age_s)
    if said == _CONNECTED:
        return ConnectorState(state="connected", why="", age_s=age_s)
    return ConnectorState(state="not connected", why=plain(said), age_s=age_s)


def lines_of(status: Status) -> list[str]:
    """The status for a person."""
    lines = []
    if status.site is not None:
        site = status.site
        lines.append(f"site process  {site.state}")
        lines.append(f"studies       {', '.join(site.studies) or 'none accepted'}")
        lines += [f"              {plain(site.fault, most=1000)}"] if site.fault else []
        lines.append(f"last answer   {site.last_answer or 'none so far'}")
    if status.connector is not None:
        connector = status.connector
        age = "" if connector.age_s is None else f", heartbeat {connector.age_s:.0f} s ago"
        why = f": {connector.why}" if connector.why else ""
        lines.append(f"connector     {connector.state}{why}{age}")
    return lines
