"""The roster of a consortium: who takes part, by which keys, signed by the coordinator.

A hospital has to compare one fingerprint, the coordinator's signing key: the roster binds the
authority's certificate, the server's addresses and every site's keys to it. Its serial only grows,
so that a roster from before a revocation can be told from the present one.
"""

import json
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from common.contract import SITE_NAME_PATTERN, Section, validate
from common.errors import ProvisionError
from common.signing import Purpose, SigningKey, verify
from common.site_keys import SiteKeys, fingerprint

_KEY = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 4 * 1024 * 1024


class Roster(Section):
    """Who takes part in a consortium.

    Attributes:
        serial: 1 or more; greater with every change.
        coordinator_key: Ed25519, 64 hex digits: signs this roster, and every task.
        authority_sha256: of the authority's certificate (DER), 64 hex digits.
        addresses: HOST:PORT of the server; a connector tries the first one.
        sites: in the order of their names; no two share a key.
    """

    version: Literal[1] = 1
    consortium: Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
    serial: Annotated[int, Field(strict=True, ge=1, lt=2**53)]
    issued_at: AwareDatetime
    coordinator_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    authority_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    addresses: Annotated[tuple[str, ...], Field(min_length=1)]
    sites: tuple[SiteKeys, ...]

    @model_validator(mode="after")
    def _is_of_distinct_sites(self) -> Self:
        names = [site.name for site in self.sites]
        if names != sorted(set(names)):
            raise ValueError("expected each site once, in the order of names, found another order")
        refuse_shared_keys(self.sites, coordinator_key=self.coordinator_key)
        return self

    @property
    def coordinator_fingerprint(self) -> str:
        """What a hospital compares on the phone."""
        return fingerprint(bytes.fromhex(self.coordinator_key))

    def site(self, name: str) -> SiteKeys:
        """The keys of the site `name`. Raises `ProvisionError` if it takes no part."""
        for site in self.sites:
            if site.name == name:
                return site
        raise ProvisionError(
            f"Expected the site '{name}' in roster {self.serial} of '{self.consortium}', found it "
            "absent: it takes no part, or no longer. Ask the coordinator."
        )

    def says_the_same(self, other: "Roster") -> bool:
        """Whether both differ in serial and date alone."""
        return self._content() == other._content()

    def _content(self) -> dict[str, object]:
        return self.model_dump(exclude={"serial", "issued_at"})


def refuse_shared_keys(sites: tuple[SiteKeys, ...], *, coordinator_key: str | None) -> None:
    """Nothing, if each key is of one party alone. Raises ValueError that names both parties."""
    owners: dict[str, str] = {}
    if coordinator_key is not None:
        owners[coordinator_key] = "the coordinator"
    for site in sites:
        for key in (site.signing_key, site.node_key):
            if key in owners:
                raise ValueError(
                    f"expected keys of its own from each hospital, found one key at "
                    f"{owners[key]} and '{site.name}'"
                )
            owners[key] = f"'{site.name}'"


def roster_to_bytes(roster: Roster, key: SigningKey) -> bytes:
    """The roster as signed JSON; the same roster and key give the same bytes.

    Raises:
        ValueError: `key` is not the coordinator's of this roster.
    """
    if key.public_key != roster.coordinator_key:
        raise ValueError("expected the key that the roster names as the coordinator's")
    payload = roster.model_dump(mode="json")
    signature = key.sign(payload, purpose=Purpose.ROSTER)
    text = json.dumps({"roster": payload, "signature": signature}, indent=1, sort_keys=True)
    return text.encode("ascii") + b"\n"


def roster_from_bytes(content: bytes, *, coordinator_key: str) -> Roster:
    """The roster in `content`, if the owner of `coordinator_key` has signed it.

    Guarantees:
        - Nothing of a roster is used before its signature is verified.
        - A roster is used only if the key that signed it is the one that the reader named.

    Raises:
        ProvisionError: it is not signed so, or is no roster.
    """
    payload, signature = _opened(content)
    if not verify(coordinator_key, payload, signature, purpose=Purpose.ROSTER):
        raise ProvisionError(
            "Expected a roster signed by the coordinator that this site knows, found another "
            "signature. Do not use it; ask the coordinator, on the phone."
        )
    roster = validate(payload, Roster, ProvisionError, where="the roster")
    if roster.coordinator_key != coordinator_key:
        raise ProvisionError(
            "Expected a roster that names its signer as coordinator, found another key. Do not "
            "use it; ask the coordinator, on the phone."
        )
    return roster


def claimed_coordinator_key(content: bytes) -> str:
    """The key that a roster names as its coordinator's: a claim, until its fingerprint is compared.

    Raises:
        ProvisionError: there is none.
    """
    key = _opened(content)[0].get("coordinator_key")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise _not_a_roster()
    return key


def _opened(content: bytes) -> tuple[dict[str, object], str]:
    """Payload and signature, neither of them verified."""
    try:
        if len(content) > _MOST_BYTES:
            raise _not_a_roster()
        envelope = json.loads(content)
        payload, signature = envelope["roster"], envelope["signature"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _not_a_roster() from None
    if not (isinstance(payload, dict) and isinstance(signature, str) and len(envelope) == 2):
        raise _not_a_roster()
    return payload, signature


def _not_a_roster() -> ProvisionError:
    return ProvisionError(
        "Expected a signed roster, found other content. Take roster.json as the coordinator sent "
        "it."
    )


def issued_now(now: datetime) -> datetime:
    """`now` in the precision that a roster keeps."""
    return now.replace(microsecond=0)
