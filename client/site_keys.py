"""A hospital's own keys: made here, private parts never leave, public parts in one small file.

Flower's SuperNode wants an ECDSA key on a NIST curve in OpenSSH's form; P-384 is what Flower itself
makes. It is made by `cryptography` as Flower does it, and tests hold it against Flower's own
readers, so that a hospital can make its keys without loading Flower.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from client.config import SiteConfig, load_site_config
from common.errors import SiteConfigError
from common.files import sync_folder, write_atomically
from common.private_files import (
    create_private,
    make_private_folder,
    one_at_a_time,
    read_private,
)
from common.signing import SigningKey
from common.site_keys import PublicKeyFile, SiteKeys, node_key_line


@dataclass(frozen=True, kw_only=True)
class MadeKeys:
    """A hospital's public keys, and where they and the private ones are.

    Attributes:
        public_file: what the hospital sends; outside of the folder of private keys.
        is_new: whether a node key was made now.
        kept: where the node key from before is, after a rotation.
    """

    keys: SiteKeys
    public_file: Path
    private_folder: Path
    is_new: bool
    kept: Path | None = None


def make_site_keys(site_dir: Path, *, now: datetime, rotate: bool = False) -> MadeKeys:
    """The keys of the hospital of `site_dir`, which are made where there are none.

    Guarantees:
        - A private key is never written over, and nobody but its owner can read it.
        - Without `rotate`, keys that are there stay as they are, and their public file is written
          again as it was.
        - With `rotate`, the node key is a new one, and the old one is beside it with the time at
          which it was replaced; the signing key stays, for it has signed the ledger.
        - The public file holds nothing private, and lies outside of the folder of private keys.

    Raises:
        SiteConfigError: `site.toml` or a key cannot be used, or there is no node key to rotate.
    """
    config = load_site_config(site_dir)
    folder = config.state_dir / "keys"
    make_private_folder(folder)
    with one_at_a_time(folder / ".lock"):
        path = node_key_path(config.state_dir)
        is_there = path.exists()
        if rotate and not is_there:
            raise SiteConfigError(
                f"Expected a node key to rotate at {path}, found none. Run without --rotate."
            )
        signing = SigningKey.load_or_create(folder / "site.pem")
        kept = _rotate(path, now=now) if rotate else None
        if not is_there:
            create_private(path, _new_node_key(), SiteConfigError)
        keys = own_keys(config)
        public_file = config.state_dir / f"{config.name}-public-keys.toml"
        content = PublicKeyFile.of(keys, signing).text().encode()
        write_atomically(public_file, content, durable=True, mode=0o644)
    return MadeKeys(
        keys=keys,
        public_file=public_file,
        private_folder=folder,
        is_new=rotate or not is_there,
        kept=kept,
    )


def own_keys(config: SiteConfig) -> SiteKeys:
    """This hospital's public keys. Raises `SiteConfigError` if one of its keys cannot be used."""
    node = load_node_key(config.state_dir)
    return SiteKeys(
        name=config.name,
        signing_key=SigningKey.load(config.state_dir / "keys" / "site.pem").public_key,
        node_key=node_key_line(node.public_key()),
    )


def node_key_path(state_dir: Path) -> Path:
    """Where the node key is: `--auth-supernode-private-key` of a stock SuperNode."""
    return state_dir / "keys" / "node.key"


def load_node_key(state_dir: Path) -> EllipticCurvePrivateKey:
    """The node key of a hospital, for Flower's Fleet connection.

    Raises:
        SiteConfigError: there is none, others may read it, or it is no ECDSA P-384 key.
    """
    path = node_key_path(state_dir)
    content = read_private(path, SiteConfigError)
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise SiteConfigError(
            f"Expected an ECDSA P-384 key in OpenSSH's form without a password, found other "
            f"content ({path}). Restore it from a backup."
        )
    return key


def _new_node_key() -> bytes:
    key = generate_private_key(SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _rotate(path: Path, *, now: datetime) -> Path:
    """Puts a new key at `path`; returns where the old one is kept.

    At any moment `path` is one of both keys, whole: the old one has its second name before the new
    one takes its place.
    """
    load_node_key(path.parent.parent)
    kept = path.with_name(f"{path.stem}.until-{now.astimezone(UTC):%Y-%m-%dT%H%M%SZ}{path.suffix}")
    if kept.exists():
        raise SiteConfigError(
            f"Expected no key at {kept}, found one: this key was rotated within this second. Wait."
        )
    coming = path.with_name(f".{path.name}.coming")
    # Left by a rotation that was cut off before the key was used.
    coming.unlink(missing_ok=True)
    create_private(coming, _new_node_key(), SiteConfigError)
    kept.hardlink_to(path)
    coming.replace(path)
    sync_folder(path.parent)
    return kept
