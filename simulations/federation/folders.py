"""The folders of a federation on one machine, and who knows whom.

Below the deployment's folder, RUN/deployment:

| path | |
|---|---|
| `sites/NAME/site` | what that hospital's processes read |
| `sites/NAME/state` | its keys, ledger, audit log and accepted studies |
| `coordinator` | the coordinator's folder, as `wardround provision` makes it |
| `logs` | one log for each tree of processes |
| `CONSORTIUM.toml` | who takes part |
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from client.acceptance import accept
from client.config import SiteConfig, load_site_config
from client.roster import join_consortium
from client.site_keys import make_site_keys
from common.errors import CohortError, DataError, RunError, SiteConfigError
from common.files import write_atomically
from common.run_folder import site_folders
from common.study import Study
from server.provision.provisioning import provision
from simulations.federation.hospitals import derive_site
from simulations.marked_processes import free_port

_HOST = "127.0.0.1"
_CONSORTIUM = "one-machine"
_MARK = ".federation"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A consortium whose members are all on this machine.

    Attributes:
        folder: RUN/deployment.
        port: of the SuperLink, on loopback.
        sites: each hospital's site folder, by its name.
    """

    folder: Path
    port: int
    sites: Mapping[str, Path]

    @property
    def address(self) -> str:
        """HOST:PORT that connectors dial."""
        return f"{_HOST}:{self.port}"

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "coordinator"


def deploy(study: Study, sites: Path, folder: Path, *, resume: bool = False) -> Deployment:
    """The hospitals below `sites` as a consortium in `folder`: keys, roster, study accepted.

    Guarantees:
        - The hospitals' own folders, ledgers and policies stay as they are.
        - With `resume`, keys, ledgers, books and policies of `folder` are used again; without, it
          starts from nothing.

    Raises:
        DataError: some hospitals could not take part; the text names every one of them, and why.
        CohortError: they are fewer than the study asks for.
        RunError: there are no site folders below `sites`, or `folder` is not a federation's.
    """
    folder = folder.resolve()
    if not resume:
        _clear(folder)
    configs = _derive(study, sites, folder, resume=resume)
    now = datetime.now(UTC)
    for config in configs.values():
        make_site_keys(config.folder, now=now)
    port = free_port()
    consortium = folder / "CONSORTIUM.toml"
    write_atomically(consortium, _consortium(configs, folder, port), durable=True)
    made = provision(consortium, folder / "coordinator", now=now)
    for name, config in configs.items():
        join_consortium(
            config.folder,
            folder / "coordinator" / "sites" / name,
            # One person is at both ends of the telephone.
            heard=made.roster.coordinator_fingerprint,
        )
        accept(config, study)
    return Deployment(
        folder=folder, port=port, sites={name: config.folder for name, config in configs.items()}
    )


def _clear(folder: Path) -> None:
    """Makes `folder` anew, which must have been made here: it may be anybody's."""
    mark = folder / _MARK
    if folder.exists():
        if not mark.is_file():
            raise RunError(
                f"Expected no folder at {folder}, or one of a federation, found another. Name "
                "another run folder by --out."
            )
        shutil.rmtree(folder)
    write_atomically(mark, b"", durable=False)


def _derive(study: Study, sites: Path, folder: Path, *, resume: bool) -> dict[str, SiteConfig]:
    """Every hospital's folder within the deployment, by the hospital's name."""
    configs: dict[str, SiteConfig] = {}
    faults: list[str] = []
    for hospital in site_folders(sites):
        try:
            name = load_site_config(hospital).name
            if name in configs:
                raise DataError(
                    f"Expected every site to have its own name, found {name} more than once below "
                    f"{sites}. Change site.name in site.toml."
                )
            configs[name] = derive_site(
                hospital, folder / "sites" / name / "site", study, keep=resume
            )
        except (DataError, SiteConfigError) as fault:
            faults.append(f"{hospital.name}: {fault}")
    if faults:
        raise DataError("\n".join(faults))
    if len(configs) < study.strategy.min_sites:
        raise CohortError(
            f"Expected at least {study.strategy.min_sites} sites (strategy.min_sites), found "
            f"{len(configs)} below {sites}. Add site folders."
        )
    return configs


def _consortium(configs: Mapping[str, SiteConfig], folder: Path, port: int) -> bytes:
    keys = {n: c.state_dir / f"{n}-public-keys.toml" for n, c in configs.items()}
    members = [{"name": n, "public_keys": str(p.relative_to(folder))} for n, p in keys.items()]
    content = {
        "consortium": {"name": _CONSORTIUM},
        "coordinator": {"hosts": [_HOST], "fleet_port": port, "superlink_port": port},
        "sites": members,
    }
    return tomli_w.dumps(content).encode()
