"""A hospital as it is shipped: the site process and the connector as two users of the system.

Needs root, to be other users; numbers are enough for that, and no account is made.
"""

import grp
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from client.config import load_site_config
from client.roster import join_consortium
from client.site_keys import load_node_key, make_site_keys
from client.status import status_of
from common.study_file import load_study
from simulations.cohort import SiteEffects, write_cohort
from tests.federation.deployment import register, superlink, until
from tests.federation.proxy import ROOT, needs_nginx, proxy
from tests.round.tiny import TINY_STUDY
from tests.unit.provision_cases import ConsortiumFolder

SITE, CONNECTOR, STRANGER = 61_001, 61_002, 61_003
WAIT_S = 180.0


def _as(uid: int, *groups: int) -> list[str]:
    """How a command is started as another user without any rights."""
    ids = [f"--reuid={uid}", f"--regid={uid}"]
    ids += [f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]


def _can_be_others() -> bool:
    tools = shutil.which("setpriv") and shutil.which("unshare")
    if os.getuid() != 0 or not tools:
        return False
    command = [*_as(STRANGER), sys.executable, "-c", "import flwr"]
    return subprocess.run(command, capture_output=True, cwd="/").returncode == 0


pytestmark = [
    needs_nginx,
    pytest.mark.skipif(
        not _can_be_others(),
        reason="needs root, and a Python that other users can run",
    ),
]


@dataclass
class Hospital:
    """Its folders, and what runs in them."""

    folder: Path
    site: subprocess.Popen[bytes]
    connector: subprocess.Popen[bytes]
    group: grp.struct_group

    @property
    def site_dir(self) -> Path:
        return self.folder / "sites" / "alpha"

    @property
    def own(self) -> Path:
        return self.folder / "connector"

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/run/site.sock"

    def is_well(self) -> bool:
        if not status_of(None, connector_dir=self.own).is_well:
            return False
        return status_of(self.site_dir, address=self.address, with_connector=False).is_well


@contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd="/",
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def _provisioned(folder: Path) -> tuple[Path, Path]:
    """The coordinator's folder, and that of the one hospital, which has joined."""
    study = folder / "tiny.toml"
    study.write_text(TINY_STUDY, encoding="utf-8")
    effects = SiteEffects(name="alpha", num_patients=60)
    write_cohort(load_study(str(study)), [effects], folder / "sites", seed=0)
    site_dir = folder / "sites" / "alpha"
    now = datetime.now(UTC)
    (folder / "consortium").mkdir()
    case = ConsortiumFolder(folder / "consortium", "alpha", "beta")
    public = make_site_keys(site_dir, now=now).public_file.read_bytes()
    (case.folder / "alpha.toml").write_bytes(public)
    heard = case.provision(now=now).roster.coordinator_fingerprint
    join_consortium(site_dir, case.out / "sites" / "alpha", heard=heard)
    return case.out, site_dir


def _give(folder: Path, uid: int) -> None:
    """The folder, to this user alone, as docs/deployment.md says."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, uid)
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    # Not pytest's own folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="wardround-users-"))
    folder.chmod(0o755)
    try:
        yield from _running(folder)
    finally:
        shutil.rmtree(folder)


def _running(folder: Path) -> Iterator[Hospital]:
    out, site_dir = _provisioned(folder)
    state = load_site_config(site_dir).state_dir
    key = public_key_to_bytes(load_node_key(state).public_key())
    command = ["sh", str(ROOT / "deploy" / "hand-over.sh"), str(state), str(folder / "connector")]
    subprocess.run([*command, str(CONNECTOR)], check=True)
    _give(site_dir, SITE)
    _give(state, SITE)
    (folder / "run").mkdir(mode=0o710)
    os.chown(folder / "run", SITE, SITE)
    group = next(g for g in grp.getgrall() if g.gr_gid != 0)
    program = str(Path(sys.executable).with_name("wardround"))
    address = f"unix:{folder}/run/site.sock"
    serve = [program, "site", "serve", str(site_dir), "--address", address]
    serve += ["--socket-group", group.gr_name]
    options = ("--ssl-certfile", f"{out}/server.pem", "--ssl-ca-certfile", f"{out}/ca.pem")
    options += ("--ssl-keyfile", f"{out}/private/server.key", "--enable-supernode-auth")
    with (
        superlink(folder / "link", *options, ca=out / "ca.pem") as link,
        proxy(folder / "nginx", out, link.address) as (door, _),
    ):
        register(link, key)
        connect = [program, "site", "connect", "--connector-dir", str(folder / "connector")]
        connect += ["--address", address, "--superlink", door]
        with (
            _started(
                ["unshare", "--net", *_as(SITE, group.gr_gid), *serve], folder / "site.log"
            ) as site,
            _started(
                [*_as(CONNECTOR, group.gr_gid), *connect], folder / "connector.log"
            ) as connector,
        ):
            made = Hospital(folder, site, connector, group)
            try:
                until(made.is_well, timeout_s=WAIT_S)
            except TimeoutError:
                logs = [(folder / name).read_text() for name in ("site.log", "connector.log")]
                pytest.fail("\n".join(logs))
            yield made
            for process in (connector, site):
                process.send_signal(signal.SIGTERM)
                assert process.wait(WAIT_S) == 0


def test_a_connector_of_another_user_connects_a_site_without_a_network(hospital: Hospital) -> None:
    assert hospital.is_well()
    for process, uid in ((hospital.site, SITE), (hospital.connector, CONNECTOR)):
        assert Path(f"/proc/{process.pid}").stat().st_uid == uid
    interfaces = Path(f"/proc/{hospital.site.pid}/net/dev").read_text(encoding="utf-8")
    assert [line.split(":")[0].strip() for line in interfaces.splitlines()[2:]] == ["lo"]


@pytest.mark.threat("I-1", "S1-3")
def test_the_connectors_user_can_open_none_of_the_hospitals_files(hospital: Hospital) -> None:
    state = load_site_config(hospital.site_dir).state_dir
    files = [str(p) for top in (hospital.site_dir, state) for p in top.rglob("*") if p.is_file()]
    files += [f"/proc/{hospital.site.pid}/{name}" for name in ("mem", "environ", "maps")]
    assert len(files) > 8
    own = str(hospital.own / "node.key")
    script = 'for file; do head -c 1 "$file" >/dev/null 2>&1 && echo "$file"; done; true'
    command = [*_as(CONNECTOR, hospital.group.gr_gid), "sh", "-c", script, "sh", *files, own]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [own]


def test_the_connector_holds_no_file_of_the_hospital_open(hospital: Hospital) -> None:
    opened = [str(p.readlink()) for p in Path(f"/proc/{hospital.connector.pid}/fd").iterdir()]
    state = str(load_site_config(hospital.site_dir).state_dir)
    assert not [path for path in opened if path.startswith((str(hospital.site_dir), state))]


@pytest.mark.parametrize(
    ("uid", "is_member", "works"), [(CONNECTOR, True, True), (STRANGER, False, False)]
)
def test_only_the_group_can_use_the_socket(
    hospital: Hospital, uid: int, is_member: bool, works: bool
) -> None:
    path = hospital.folder / "run" / "site.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    groups = (hospital.group.gr_gid,) if is_member else ()
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    command = [*_as(uid, *groups), sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert (done.returncode == 0, "PermissionError" in done.stderr) == (works, not works)
