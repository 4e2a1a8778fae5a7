"""Signatures of both sides: Ed25519 over canonical bytes, each for one purpose alone.

A private key stays in a file of its own that nobody but its owner can read; it is never printed,
logged or sent. Must not import torch: the command line and connectors read ledgers without it.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.errors import MessageError, SiteConfigError
from common.private_files import create_private, read_private
from common.receipts import Countersigned, Receipt

_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


class Purpose(StrEnum):
    """What a signature, a digest or a secret is for: the tag in front of the bytes."""

    LEDGER_ENTRY = "ledger-entry"
    LEDGER_HEAD = "ledger-head"
    COUNTERSIGNED_HEAD = "ledger-head-countersigned"
    DATA_FINGERPRINT = "data-fingerprint"
    AUDIT_LINE = "audit-line"
    ACCEPTANCE = "study-acceptance"
    SITE_KEYS = "site-keys"
    ROSTER = "roster"
    TASK = "task"
    REPLY = "reply"
    DOSSIER = "egress-dossier"


class SigningKey:
    """An Ed25519 private key, and what it signs.

    Guarantees:
        - A signature for one purpose is none for another.
        - A signature does not depend on the order of keys in the payload.
        - A key file is whole or absent, is never written over, and nobody else can read it.
        - A key that others can read is not used.
        - The private key is in no text: `repr` shows the public one.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self.public_key!r})"

    @classmethod
    def generate(cls) -> Self:
        """A new key that is in no file: for the books of one simulation."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new key, written to `path` (PEM, PKCS 8, mode 0600) before it is returned.

        Raises:
            SiteConfigError: there is a file already; it is left as it is.
        """
        key = cls.generate()
        pem = key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_private(path, pem, SiteConfigError)
        return key

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key of the file at `path`.

        Raises:
            SiteConfigError: there is no such file, group or others may use it, or it holds no
                Ed25519 key.
        """
        content = read_private(path, SiteConfigError)
        try:
            private = load_pem_private_key(content, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise SiteConfigError(
                f"Expected an Ed25519 key in PEM without a password, found other content ({path}). "
                "Restore it from a backup."
            )
        return cls(private)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The key of the file at `path`, which is made where there is none.

        Raises `SiteConfigError` as `load` does.
        """
        return cls.load(path) if path.exists() else cls.create(path)

    def sign(self, payload: Mapping[str, Any], *, purpose: Purpose) -> str:
        """The signature of `payload`, 128 hex digits. Raises ValueError as `canonical_bytes`."""
        return self._private.sign(canonical_bytes(payload, purpose=purpose)).hex()

    def secret(self, purpose: Purpose) -> bytes:
        """32 secret bytes that follow from this key, others for each purpose."""
        seed = self._private.private_bytes_raw()
        return hmac.digest(seed, f"wardround/secret/{purpose}".encode(), "sha256")


def verify(
    public_key: str, payload: Mapping[str, Any], signature: str, *, purpose: Purpose
) -> bool:
    """Whether `signature` is the one of `payload` by the owner of `public_key`; never raises."""
    if not (_PUBLIC_KEY.fullmatch(public_key) and _SIGNATURE.fullmatch(signature)):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), canonical_bytes(payload, purpose=purpose))
    except (InvalidSignature, ValueError):
        return False
    return True


def canonical_bytes(payload: Mapping[str, Any], *, purpose: Purpose) -> bytes:
    r"""The one form of `payload` as bytes: a tag, then JSON in ASCII with sorted keys.

    Lists and tuples are the same, 1 and 1.0 are not.

    >>> canonical_bytes({"b": 1, "a": "é"}, purpose=Purpose.LEDGER_HEAD)
    b'wardround/ledger-head\n{"a":"\\u00e9","b":1}'

    Raises:
        ValueError: a key is no string, a float is not finite, or a value has no form in JSON.
    """
    return f"wardround/{purpose}\n".encode() + canonical_json(payload)


def canonical_json(value: object) -> bytes:
    """JSON in ASCII with sorted keys and no spaces. Raises ValueError where there is no such."""
    try:
        if not _has_string_keys(value):
            raise ValueError("expected strings as keys, found others")
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except (TypeError, RecursionError) as fault:
        raise ValueError(
            f"expected values of JSON, found others ({type(fault).__name__})"
        ) from None
    return text.encode("ascii")


def digest_of(payload: Mapping[str, Any], *, purpose: Purpose) -> str:
    """SHA-256, in hex, of the canonical bytes of `payload`."""
    return hashlib.sha256(canonical_bytes(payload, purpose=purpose)).hexdigest()


def sign_head(seq: int, digest: str, key: SigningKey) -> str:
    """A site's signature on the head of its ledger."""
    return key.sign({"seq": seq, "digest": digest}, purpose=Purpose.LEDGER_HEAD)


def is_head_signed(seq: int, digest: str, signature: str, public_key: str) -> bool:
    """Whether the owner of `public_key` has signed this head of a ledger."""
    head = {"seq": seq, "digest": digest}
    return verify(public_key, head, signature, purpose=Purpose.LEDGER_HEAD)


def countersign(
    receipt: Receipt, key: SigningKey, *, site_key: str, last: Countersigned | None = None
) -> Countersigned:
    """The head of a receipt, signed by both sides: what the next task brings back to the site.

    Args:
        key: of the coordinator.
        site_key: the public key that the coordinator knows the site by.
        last: what was countersigned for this site before.

    Raises:
        MessageError: the receipt is not signed by `site_key`, or its ledger is behind `last`.
    """
    is_signed = is_head_signed(receipt.seq, receipt.digest, receipt.signature, site_key)
    if receipt.key != site_key or not is_signed:
        raise MessageError("Expected a receipt that the site has signed, found another.")
    if last is not None and (
        receipt.seq < last.seq or (receipt.seq == last.seq and receipt.digest != last.digest)
    ):
        raise MessageError(
            f"Expected a ledger of at least {last.seq + 1} entries that holds the last "
            f"countersigned one, found a receipt of entry {receipt.seq}. Ask the hospital which "
            "copy of its ledger it runs on."
        )
    both = {"seq": receipt.seq, "digest": receipt.digest, "site_signature": receipt.signature}
    return Countersigned(
        seq=receipt.seq,
        digest=receipt.digest,
        site_signature=receipt.signature,
        key=key.public_key,
        signature=key.sign(both, purpose=Purpose.COUNTERSIGNED_HEAD),
    )


def is_countersigned(head: Countersigned, *, site_key: str) -> bool:
    """Whether both signatures on `head` hold, the site's by `site_key`."""
    both = {"seq": head.seq, "digest": head.digest, "site_signature": head.site_signature}
    return is_head_signed(head.seq, head.digest, head.site_signature, site_key) and verify(
        head.key, both, head.signature, purpose=Purpose.COUNTERSIGNED_HEAD
    )


def _has_string_keys(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _has_string_keys(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_has_string_keys(item) for item in value)
    return True
