"""The dossier as files: signed JSON, the page made of it, and whether both are what was written.

The signature covers the dossier and nothing else; each byte of the file is told by what it says.
The page has no signature of its own: it is a function of the JSON, and is compared with it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.dossier.contents import FORMAT, faults_of
from client.dossier.page import page_of
from common.errors import SiteConfigError
from common.files import write_atomically
from common.signing import Purpose, SigningKey, canonical_json, verify

JSON_NAME, PAGE_NAME = "dossier.json", "dossier.html"
_LARGEST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A dossier and its signature; None where there was no key, as in some simulations."""

    dossier: Mapping[str, Any]
    signature: str | None

    @classmethod
    def of(cls, dossier: Mapping[str, Any], key: SigningKey | None) -> "Signed":
        """The dossier, signed by the site's key over its canonical JSON."""
        signature = None if key is None else key.sign(dossier, purpose=Purpose.DOSSIER)
        return cls(dossier=dossier, signature=signature)

    def to_bytes(self) -> bytes:
        """The file: canonical JSON, of which there is one form."""
        return canonical_json({"dossier": self.dossier, "signature": self.signature}) + b"\n"

    def is_signed_by(self, public_key: str) -> bool:
        """Whether the owner of `public_key` has signed this dossier."""
        return verify(public_key, self.dossier, self.signature or "", purpose=Purpose.DOSSIER)

    def page(self) -> str:
        """The dossier as one HTML file."""
        return page_of(self.dossier, self.signature)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a dossier is what its hospital has written.

    Attributes:
        is_simulation: whether the hospital is a simulated one.
        is_signed: by the key that it was held against.
        page: "same", "other" or "none": whether the page beside it is the one of this dossier.
        faults: of the books, as the dossier itself tells.
    """

    site: str
    made_at: str
    is_signed: bool
    page: str
    faults: tuple[str, ...]
    is_simulation: bool = False

    @property
    def is_good(self) -> bool:
        """Whether it is signed, its books were whole, and no other page lies beside it."""
        return self.is_signed and self.page != "other" and not self.faults


def write_dossier(signed: Signed, folder: Path) -> tuple[Path, Path]:
    """Writes both files, each whole; returns where they are. They are readable by their owner."""
    paths = folder / JSON_NAME, folder / PAGE_NAME
    for path, content in zip(paths, (signed.to_bytes(), signed.page().encode()), strict=True):
        write_atomically(path, content, durable=True, mode=0o600)
    return paths


def read_dossier(path: Path) -> Signed:
    """The dossier of a file, whoever signed it.

    Raises:
        SiteConfigError: there is none, or it is not exactly what is written here.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        table = json.loads(content)
        signed = Signed(dossier=table["dossier"], signature=table["signature"])
        is_ours = content == signed.to_bytes() and _has_known_form(signed)
    except OSError as fault:
        raise _not_a_dossier(path, type(fault).__name__) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise _not_a_dossier(path, "other content, or one of another version")
    return signed


def verdict_on(path: Path, public_key: str) -> Verdict:
    """Whether the dossier at `path` is by the owner of `public_key`, and the page beside it of it.

    Guarantees:
        - One changed byte of the file is found, and so is a dossier that another key signed.
        - A page beside it that tells anything else is found.

    Raises:
        SiteConfigError: there is no dossier at `path`.
    """
    signed = read_dossier(path)
    if not signed.is_signed_by(public_key):
        # What somebody else wrote is not made a page of.
        return Verdict(site="", made_at="", is_signed=False, page="none", faults=())
    page = path.with_suffix(".html")
    beside = "none"
    if page.is_file():
        beside = "same" if page.read_bytes() == signed.page().encode() else "other"
    return Verdict(
        site=signed.dossier["site"],
        made_at=signed.dossier["made_at"],
        is_signed=True,
        page=beside,
        faults=tuple(faults_of(signed.dossier)),
        is_simulation=bool(signed.dossier["is_simulation"]),
    )


def _has_known_form(signed: Signed) -> bool:
    texts = (signed.dossier["public_key"], signed.signature)
    if not all(text is None or isinstance(text, str) for text in texts):
        return False
    key = signed.dossier["public_key"]
    is_key = key is None or re.fullmatch(r"[0-9a-f]{64}", key) is not None
    return is_key and signed.dossier["format"] == FORMAT


def _not_a_dossier(path: Path, found: str) -> SiteConfigError:
    return SiteConfigError(
        f"Expected the JSON file of a dossier at {path}, found {found}. Name the {JSON_NAME} that "
        "`wardround dossier` wrote, as it was written."
    )
