"""What is shipped for a service manager: every line that a promise rests on is really there."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from simulations.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SYSTEMD, COMPOSE = DEPLOY / "systemd", DEPLOY / "compose"
LASTING = ("site", "connector", "site-up", "superlink")
ALL = (*LASTING, "run@")
QUIET = {
    "FLWR_TELEMETRY_ENABLED=0",
    "FLWR_DISABLE_UPDATE_CHECK=1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
}
# For what passes bytes on; a site process would train half as fast again with it.
SMALL = {"MALLOC_ARENA_MAX=1", "MALLOC_TRIM_THRESHOLD_=131072"}

Unit = dict[str, list[str]]


def unit(name: str) -> Unit:
    """The values of a unit's [Service], by key, in order."""
    values: Unit = {}
    section = ""
    for line in (SYSTEMD / f"wardround-{name}.service").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def words(values: Unit, key: str) -> set[str]:
    return set(" ".join(values.get(key, [])).split())


def compose(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text("utf-8"))
    return content


HOSPITAL = compose("compose.yaml")["services"]
COORDINATOR = compose("compose.coordinator.yaml")["services"]
SERVICES = {f"hospital-{name}": it for name, it in HOSPITAL.items()} | {
    f"coordinator-{name}": it for name, it in COORDINATOR.items()
}


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The mounts of a service, by where they are in the container."""
    return {mount["target"]: mount for mount in service["volumes"]}


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of these arguments. Fails where it does not know one."""
    command: click.Command = typer.main.get_command(app)
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments[0])
        assert found is not None, arguments
        command, arguments = found, arguments[1:]
    return command.make_context("wardround", list(arguments)).params


# systemd


@pytest.mark.parametrize("name", ALL)
def test_a_unit_is_hardened_quiet_and_leaves_nothing_behind(name: str) -> None:
    values = unit(name)
    assert words(values, "Environment") >= QUIET
    expected = {
        "NoNewPrivileges": ["yes"],
        "ProtectSystem": ["strict"],
        "ProtectHome": ["yes"],
        "PrivateTmp": ["yes"],
        "PrivateDevices": ["yes"],
        "CapabilityBoundingSet": [""],
        "LimitCORE": ["0"],
        "UMask": ["0077"],
        "SystemCallFilter": ["@system-service"],
    }
    assert {key: values.get(key) for key in expected} == expected
    assert values["User"][0] not in ("root", "0")
    assert int(values["TimeoutStopSec"][0]) > 30


@pytest.mark.parametrize("name", ALL)
def test_what_only_passes_bytes_on_gives_memory_back_and_what_trains_is_not_slowed_down(
    name: str,
) -> None:
    trains = name in ("site", "site-up")
    assert words(unit(name), "Environment") & SMALL == (set() if trains else SMALL)


def test_in_containers_likewise() -> None:
    small = dict(setting.split("=") for setting in SMALL)
    assert HOSPITAL["connector"]["environment"] == COORDINATOR["superlink"]["environment"] == small
    assert "environment" not in HOSPITAL["site"]
    assert "MALLOC" not in (COMPOSE / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize("name", LASTING)
def test_what_ends_is_started_again_however_often(name: str) -> None:
    assert unit(name)["Restart"] == ["always"]
    text = (SYSTEMD / f"wardround-{name}.service").read_text("utf-8")
    assert "\nStartLimitIntervalSec=0\n" in text


@pytest.mark.threat("S1-3", "I-1")
def test_the_site_process_has_no_network_and_its_data_are_read_only() -> None:
    site = unit("site")
    assert site["PrivateNetwork"] == ["yes"]
    assert site["IPAddressDeny"] == ["any"]
    assert words(site, "RestrictAddressFamilies") == {"AF_UNIX"}
    assert words(site, "ReadOnlyPaths") == {"/srv/wardround/site"}
    assert words(site, "ReadWritePaths") == {"/var/lib/wardround-site"}
    assert site["StateDirectoryMode"] == ["0700"]


def test_the_connector_is_another_user_who_reaches_no_data_and_no_ledger() -> None:
    site, connector = unit("site"), unit("connector")
    assert connector["User"] != site["User"]
    assert connector["Group"] != site["Group"]
    hidden = {path.lstrip("-") for path in words(connector, "InaccessiblePaths")}
    assert hidden == {"/srv/wardround", "/var/lib/wardround-site"}
    assert words(connector, "ReadWritePaths") == {"/var/lib/wardround-connector"}
    assert parsed(command_of("connector"))["site_dir"] is None


def test_both_meet_at_one_socket_by_a_group_that_both_are_in() -> None:
    site, connector = unit("site"), unit("connector")
    serving, connecting = parsed(command_of("site")), parsed(command_of("connector"))
    assert site["SupplementaryGroups"] == connector["SupplementaryGroups"]
    assert [serving["socket_group"]] == site["SupplementaryGroups"]
    assert serving["address"] == connecting["address"] == "unix:/run/wardround/site.sock"
    assert (site["RuntimeDirectory"], site["RuntimeDirectoryMode"]) == (["wardround"], ["0710"])


@pytest.mark.threat("N-2")
@pytest.mark.parametrize("name", ["superlink", "run@"])
def test_the_coordinators_server_is_reached_from_its_own_machine_alone(name: str) -> None:
    values = unit(name)
    assert (values["IPAddressDeny"], values["IPAddressAllow"]) == (["any"], ["localhost"])
    assert "--host" not in values["ExecStart"][0]
    assert "--without-proxy" not in values["ExecStart"][0]


def command_of(name: str) -> list[str]:
    """The arguments of `wardround` in a unit's ExecStart."""
    arguments = shlex.split(unit(name)["ExecStart"][0])
    assert arguments[0] == "/opt/wardround/bin/wardround"
    return arguments[1:]


@pytest.mark.parametrize("name", LASTING)
def test_a_units_command_exists_with_its_options(name: str) -> None:
    parsed(command_of(name))


def test_a_run_starts_anew_or_goes_on_by_options_that_exist(tmp_path: Path) -> None:
    script = shlex.split(unit("run@")["ExecStart"][0].replace("$$", "$").replace("%i", "heart"))
    program = script[2].replace("exec /opt/wardround/bin/wardround", 'printf "%s\\n"')
    environment = {"RUN": str(tmp_path), "PATH": os.environ["PATH"]}
    for has_journal in (False, True):
        if has_journal:
            (tmp_path / "journal.jsonl").touch()
        done = subprocess.run(
            ["sh", "-c", program], env=environment, capture_output=True, text=True
        )
        found = parsed(done.stdout.splitlines())
        assert (found["resume"], str(found["out"])) == (has_journal, str(tmp_path))


def test_a_connector_that_stands_still_is_restarted_and_no_other(tmp_path: Path) -> None:
    line = unit("connector-watch")["ExecStart"][0].replace("$$", "$")
    heartbeat = tmp_path / "heartbeat"
    program = shlex.split(line)[2].replace("/var/lib/wardround-connector", str(tmp_path))
    program = program.replace("systemctl", "echo")

    def said() -> str:
        return subprocess.run(["sh", "-c", program], capture_output=True, text=True).stdout

    assert said() == ""  # none yet
    heartbeat.touch()
    assert said() == ""
    now = heartbeat.stat().st_mtime
    os.utime(heartbeat, (now - 120, now - 120))
    assert said() == "try-restart wardround-connector.service\n"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    names = []
    for path in sorted(SYSTEMD.iterdir()):
        text = path.read_text("utf-8").replace("/opt/wardround/bin/wardround", "/bin/true")
        (tmp_path / path.name).write_text(text, "utf-8")
        names.append(str(tmp_path / path.name))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# compose


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_and_nothing_to_write_but_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30
    assert service["ulimits"] == {"core": 0}
    assert "privileged" not in service
    if name != "hospital-hand-over":
        assert service["user"].split(":")[0] not in ("0", "root")
        assert "cap_add" not in service
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


def test_the_site_container_has_no_network_and_its_data_are_read_only() -> None:
    site = HOSPITAL["site"]
    assert site["network_mode"] == "none"
    assert not {"networks", "ports", "expose"} & site.keys()
    assert mounts(site)["/srv/wardround/site"]["read_only"] is True
    assert set(mounts(site)) == {"/srv/wardround/site", "/var/lib/wardround-site", "/run/wardround"}


def test_the_connector_container_has_neither_data_nor_books_and_nobody_reaches_it() -> None:
    connector = HOSPITAL["connector"]
    assert set(mounts(connector)) == {"/var/lib/wardround-connector", "/run/wardround"}
    assert mounts(connector)["/run/wardround"]["read_only"] is True
    sources = {mount["source"] for mount in connector["volumes"]}
    assert "state" not in sources
    assert not {"ports", "expose", "network_mode"} & connector.keys()
    assert connector["user"] != HOSPITAL["site"]["user"]
    assert connector["group_add"] == HOSPITAL["site"]["group_add"]


@pytest.mark.threat("N-2")
def test_only_the_proxys_port_leaves_the_coordinators_containers() -> None:
    superlink, proxy = COORDINATOR["superlink"], COORDINATOR["proxy"]
    assert proxy["network_mode"] == "service:superlink"
    assert "ports" not in proxy
    (published,) = superlink["ports"]
    assert published.rpartition(":")[2] == proxy["environment"]["WARDROUND_LISTEN"]
    assert parsed(superlink["command"])["host"] == "127.0.0.1"
    assert all(
        mounts(proxy)[target]["read_only"] is True
        for target in mounts(proxy)
        if target != "/var/log/nginx"
    )


@pytest.mark.parametrize("name", ["site", "connector", "superlink"])
def test_a_containers_commands_exist_with_their_options(name: str) -> None:
    service = (HOSPITAL | COORDINATOR)[name]
    parsed([str(word) for word in service["command"]])
    test = service["healthcheck"]["test"]
    if test[1] == "wardround":
        parsed([str(word) for word in test[2:]])


def test_the_proxys_container_fills_in_every_variable_of_the_template() -> None:
    template = (DEPLOY / "nginx" / "wardround.conf.template").read_text("utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", template)) == set(COORDINATOR["proxy"]["environment"])


def test_every_variable_is_in_the_example_and_every_one_is_documented() -> None:
    text = "".join(path.read_text("utf-8") for path in COMPOSE.glob("*.yaml"))
    used = set(re.findall(r"\$\{(\w+)", text))
    example = (COMPOSE / ".env.example").read_text("utf-8")
    assert set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE)) == used
    template = (DEPLOY / "nginx" / "wardround.conf.template").read_text("utf-8")
    used |= set(re.findall(r"\$\{(\w+)\}", template))
    documented = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    assert sorted(name for name in used if f"`{name}`" not in documented) == []


def test_the_images_users_are_those_of_the_containers_and_it_is_quiet() -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text("utf-8")
    made = dict(re.findall(r"useradd --uid (\d+) .*(wardround-\w+)", dockerfile))
    assert {f"{uid}:{uid}" for uid in made} == {
        service["user"] for service in (HOSPITAL | COORDINATOR).values()
    } - {"0:0", "101:101"}
    assert HOSPITAL["site"]["group_add"] == re.findall(r"groupadd --gid (\d+)", dockerfile)
    assert all(setting in dockerfile for setting in QUIET)
    assert re.findall(r"^USER (.*)", dockerfile, flags=re.MULTILINE) == ["10001:10001"]


def test_no_data_or_key_can_get_into_the_image() -> None:
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    code = {"client", "common", "server", "simulations"}
    files = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "deploy/hand-over.sh"}
    assert allowed == code | files
    assert all((ROOT / name).exists() for name in allowed)


# what is handed to the connector


def test_the_connector_is_handed_three_files_and_nothing_else(tmp_path: Path) -> None:
    state, connector = tmp_path / "state", tmp_path / "connector"
    (state / "keys").mkdir(parents=True)
    files = {"keys/node.key": "k", "ca.pem": "a", "client.pem": "c"}
    others = {"keys/site.pem": "s", "ledger.jsonl": "l", "roster.json": "r"}
    for name, content in (files | others).items():
        (state / name).write_text(content, "utf-8")
    user = str(os.getuid())
    command = ["sh", str(DEPLOY / "hand-over.sh"), str(state), str(connector), user]
    subprocess.run(command, check=True)
    (connector / "session.json").write_text("its own", "utf-8")
    (state / "ca.pem").write_text("renewed", "utf-8")
    subprocess.run(command, check=True)
    got = {path.name: path.read_text("utf-8") for path in connector.iterdir()}
    expected = {"node.key": "k", "ca.pem": "renewed", "client.pem": "c", "session.json": "its own"}
    assert got == expected
    assert oct(connector.stat().st_mode & 0o777) == "0o700"
    assert {oct((connector / n).stat().st_mode & 0o777) for n in got if n != "session.json"} == {
        "0o600"
    }
