"""`CONSORTIUM.toml`: who takes part, and under which names the coordinator's server is reached."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from common.contract import SITE_NAME_PATTERN, Section, read_toml
from common.errors import ProvisionError
from common.roster import refuse_shared_keys
from common.site_keys import SiteKeys, read_public_key_file

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


def _host(text: str) -> str:
    """The text itself, if it is a host name or an address that a certificate can name."""
    try:
        address = ip_address(text)
    except ValueError:
        labels = text.split(".")
        is_name = len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
        # A last label of digits is a mistyped address: no top-level domain is a number.
        if not is_name or labels[-1].isdigit():
            raise ValueError(
                "expected a host name in small letters or an IP address, without scheme, port "
                f"or wildcard, found {text[:80]!r}"
            ) from None
        return text
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise ValueError(
            f"expected an address that hospitals can reach, found {text!r}, which is one to listen "
            "on"
        )
    if str(address) != text:
        raise ValueError(f"expected the usual form {str(address)!r}, found {text!r}")
    return text


Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


class ConsortiumName(Section):
    """What the consortium is called, in certificates and rosters."""

    name: Annotated[str, Field(pattern=SITE_NAME_PATTERN)]


class Coordinator(Section):
    """Where the server is.

    Attributes:
        hosts: names and addresses of the server, all in its certificate; hospitals dial the first.
        fleet_port: that hospitals dial, for the Fleet API: the reverse proxy's, or the SuperLink's.
        superlink_port: of the SuperLink itself, where Flower has Fleet, Control and Runtime API on
            one port.
    """

    hosts: Annotated[tuple[Host, ...], Field(max_length=50)]
    fleet_port: Port = 8000
    superlink_port: Port = 8000

    @model_validator(mode="after")
    def _names_hosts_once_each(self) -> Self:
        if not self.hosts:
            raise ValueError("expected the name or address of the server in hosts, found none")
        twice = sorted({host for host in self.hosts if self.hosts.count(host) > 1})
        if twice:
            raise ValueError(f"expected each host once, found {twice[0]!r} twice")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """HOST:PORT that hospitals dial."""
        return tuple(
            f"[{host}]:{self.fleet_port}" if ":" in host else f"{host}:{self.fleet_port}"
            for host in self.hosts
        )

    @property
    def certified_hosts(self) -> tuple[str, ...]:
        """What the server's certificate is for: `hosts`, and the machine itself.

        The SuperLink's own ServerApp processes dial it on loopback, by TLS too.
        """
        return tuple(dict.fromkeys((*self.hosts, *_LOOPBACK)))


class Validity(Section):
    """How long new certificates hold, in days."""

    ca_days: Annotated[int, Field(strict=True, ge=30, le=7300)] = 3650
    server_days: Annotated[int, Field(strict=True, ge=7, le=825)] = 365
    site_days: Annotated[int, Field(strict=True, ge=7, le=825)] = 365

    @model_validator(mode="after")
    def _ends_the_authority_last(self) -> Self:
        for name in ("server_days", "site_days"):
            if getattr(self, name) > self.ca_days:
                raise ValueError(
                    f"expected {name} of at most ca_days, found {getattr(self, name)} and "
                    f"{self.ca_days}"
                )
        return self


class Member(Section):
    """One hospital: its name, and the file that it sent, relative to `CONSORTIUM.toml`."""

    name: Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
    public_keys: Annotated[str, Field(min_length=1)]


class Consortium(Section):
    """The content of `CONSORTIUM.toml`."""

    consortium: ConsortiumName
    coordinator: Coordinator
    validity: Validity = Validity()
    sites: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _names_each_site_once(self) -> Self:
        names = [member.name for member in self.sites]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"expected each site once, found '{twice[0]}' twice")
        return self


def load_consortium(path: Path) -> Consortium:
    """The consortium of a file. Raises `ProvisionError` that names every fault."""
    return read_toml(path, Consortium, ProvisionError)


def read_members(consortium: Consortium, folder: Path) -> tuple[SiteKeys, ...]:
    """The keys that the hospitals sent, in the order of their names.

    Args:
        folder: at which the paths in the file start.

    Raises:
        ProvisionError: a file is missing or cannot be trusted, is of another site than it stands
            for, or two hospitals have the same key.
    """
    members = []
    for member in sorted(consortium.sites, key=lambda m: m.name):
        path = folder / member.public_keys
        keys = read_public_key_file(path)
        if keys.name != member.name:
            raise ProvisionError(
                f"Expected the public keys of '{member.name}', found those of '{keys.name}' "
                f"({path}). Name the right file, or the site as it calls itself."
            )
        members.append(keys)
    try:
        refuse_shared_keys(tuple(members), coordinator_key=None)
    except ValueError as fault:
        raise ProvisionError(
            f"{str(fault).capitalize()}. One of them sent a file that is not its own: ask both."
        ) from None
    return tuple(members)
