"""The public keys of a hospital, and the small file in which it sends them.

Two keys, both made at the hospital: an Ed25519 key that signs replies and the ledger, and an ECDSA
P-384 key by which Flower's SuperLink knows the node. Holds nothing private: a file with a private
key in it is refused, and never quoted.
"""

import hashlib
import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AfterValidator, Field

from common.contract import SITE_NAME_PATTERN, Section, read_toml
from common.errors import ProvisionError
from common.signing import Purpose, SigningKey, verify

_MOST_BYTES = 16_384


def fingerprint(public: bytes) -> str:
    """The first 128 bits of SHA-256 in groups of four digits, to be read aloud.

    >>> fingerprint(b"abc")
    'ba78 16bf 8f01 cfea 4141 40de 5dae 2223'
    """
    digits = hashlib.sha256(public).hexdigest()[:32]
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


def is_heard(heard: str, public: bytes) -> bool:
    """Whether what somebody heard and typed, with any spaces and case, is the fingerprint.

    >>> is_heard("BA7816bf 8f01cfea-414140de:5dae2223", b"abc")
    True
    """
    return re.sub(r"[\s:-]", "", heard).lower() == fingerprint(public).replace(" ", "")


def node_key_line(key: EllipticCurvePublicKey) -> str:
    """A node's public key as one line of OpenSSH, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _one_form(line: str) -> str:
    """The line itself, if it is a P-384 key in the one form that `node_key_line` writes."""
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ValueError("expected an ECDSA P-384 key in OpenSSH's form, found something else")
    if node_key_line(key) != line:
        raise ValueError("expected a key in OpenSSH's form without comment or spaces, found more")
    return line


class SiteKeys(Section):
    """Who a hospital is: its name and its two public keys.

    Attributes:
        signing_key: Ed25519, 64 hex digits.
        node_key: ECDSA P-384, one line in OpenSSH's form.
    """

    name: Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
    signing_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    node_key: Annotated[str, Field(max_length=400), AfterValidator(_one_form)]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What both sides compare on the phone, by key."""
        return {
            "signing_key": fingerprint(bytes.fromhex(self.signing_key)),
            "node_key": fingerprint(b64decode(self.node_key.split()[1])),
        }

    def node_key_pem(self) -> bytes:
        """The node's public key as Flower's SuperLink stores it and a node sends it."""
        key = load_ssh_public_key(self.node_key.encode())
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class PublicKeyFile(Section):
    """The content of the file that a hospital sends.

    Attributes:
        signature: by the signing key over all of `site`: the keys belong together, and the file
            came whole. That it came from the hospital is for the phone to say.
    """

    version: Literal[1]
    site: SiteKeys
    signature: str

    @classmethod
    def of(cls, keys: SiteKeys, signing: SigningKey) -> Self:
        """The file of `keys`, signed by the private part of its signing key."""
        signature = signing.sign(keys.model_dump(), purpose=Purpose.SITE_KEYS)
        return cls(version=1, site=keys, signature=signature)

    def text(self) -> str:
        """The file as TOML, with what the reader needs to know."""
        site, prints = self.site, self.site.fingerprints
        return (
            f'# Public keys of the hospital "{site.name}" for Wardround. Nothing here is secret.\n'
            "# Whoever receives this file phones the hospital, at a number that did not come with\n"
            "# it, and compares these fingerprints:\n"
            f"#   signing key  {prints['signing_key']}\n"
            f"#   node key     {prints['node_key']}\n"
            "version = 1\n"
            f'signature = "{self.signature}"\n\n'
            "[site]\n"
            f'name = "{site.name}"\n'
            f'signing_key = "{site.signing_key}"\n'
            f'node_key = "{site.node_key}"\n'
        )


def read_public_key_file(path: Path) -> SiteKeys:
    """The keys in the file that a hospital sent.

    Raises:
        ProvisionError: there is no such file, it holds a private key or anything else, or its
            signature does not hold.
    """
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(_MOST_BYTES + 1)
        if b"PRIVATE KEY" in start:
            raise ProvisionError(
                f"Expected public keys, found a PRIVATE key ({path}). It is no secret any more: "
                "delete every copy, and have the hospital make new keys."
            )
        if len(start) > _MOST_BYTES:
            raise ProvisionError(
                f"Expected a file of public keys of at most {_MOST_BYTES} bytes, found a longer "
                f"one ({path}). Name the file that `wardround site keys` wrote."
            )
    file_ = read_toml(path, PublicKeyFile, ProvisionError)
    keys = file_.site
    signed = verify(keys.signing_key, keys.model_dump(), file_.signature, purpose=Purpose.SITE_KEYS)
    if not signed:
        raise ProvisionError(
            f"Expected keys signed by the hospital's own signing key, found others ({path}). The "
            "file was changed or torn on its way: have the hospital send it again."
        )
    return keys
