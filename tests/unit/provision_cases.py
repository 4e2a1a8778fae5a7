"""A consortium in a folder: its file, the files of its hospitals, and the clock."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

from common.signing import SigningKey
from common.site_keys import PublicKeyFile, SiteKeys, node_key_line
from server.provision.provisioning import Provisioned, provision

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def new_keys(name: str) -> tuple[SiteKeys, SigningKey]:
    """The public keys of a hospital of that name, and its private signing key."""
    signing = SigningKey.generate()
    node = generate_private_key(SECP384R1())
    line = node_key_line(node.public_key())
    return SiteKeys(name=name, signing_key=signing.public_key, node_key=line), signing


class ConsortiumFolder:
    """`CONSORTIUM.toml` and the hospitals' files in `folder`; `out` is the coordinator's folder."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.out, self.file = folder, folder / "out", folder / "CONSORTIUM.toml"
        self.keys: dict[str, SiteKeys] = {}
        self.content: dict[str, Any] = {
            "consortium": {"name": "north"},
            "coordinator": {"hosts": ["localhost"], "fleet_port": 9443},
            "sites": [],
        }
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self.send_keys(name)
        self.content["sites"].append({"name": name, "public_keys": f"{name}.toml"})
        self.save()

    def send_keys(self, name: str) -> None:
        """New keys from the hospital `name`."""
        keys, signing = new_keys(name)
        self.keys[name] = keys
        text = PublicKeyFile.of(keys, signing).text()
        (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def remove(self, name: str) -> None:
        self.content["sites"] = [s for s in self.content["sites"] if s["name"] != name]
        self.save()

    def save(self) -> None:
        self.file.write_text(tomli_w.dumps(self.content), encoding="utf-8")

    def provision(self, *, now: datetime = NOW, **how: Any) -> Provisioned:
        return provision(self.file, self.out, now=now, **how)

    def files(self) -> dict[str, bytes]:
        """What is in the coordinator's folder."""
        paths = sorted(path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}
