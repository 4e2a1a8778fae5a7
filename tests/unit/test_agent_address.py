"""Where a site process listens: a socket of its own, or loopback; never over another's."""

import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from client.agent import serve
from client.agent_address import claimed, default_address, parse_address
from client.agent_client import connect
from client.config import load_site_config
from common.errors import SiteConfigError
from common.study import Study
from tests.unit.agent_cases import accept, private_of, running


@pytest.fixture
def folder(new_site: Callable[..., Path], tiny_study: Study) -> Path:
    return accept(new_site(), private_of(tiny_study), cohort_size=45)


def ended() -> threading.Event:
    """So that a process that should have been refused ends by itself, and the test fails."""
    stop = threading.Event()
    stop.set()
    return stop


def test_the_socket_is_its_owners_alone(folder: Path) -> None:
    path = socket_path(folder)
    with running(folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_others_may_enter_is_refused(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(SiteConfigError, match="0750"):
        serve(folder, address=f"unix:{tmp_path}/s", ready=print, stop=ended())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:9092",
        "192.168.1.4:9092",
        "[::]:9092",
        "localhost:9092",  # whatever the resolver says it is
        "example.org:80",
        ":9092",
        "127.0.0.1",
        "127.0.0.1:99999",
        "unix-abstract:site",
        "unix:site.sock",
        "unix:/tmp/100%/site.sock",
        "unix:/" + "a" * 120,
        "dns:127.0.0.1:9092",
    ],
)
def test_an_address_that_others_could_reach_is_refused_by_both_sides(
    folder: Path, address: str
) -> None:
    with pytest.raises(SiteConfigError, match=r"^Expected .*\.$"):
        connect(address)
    with pytest.raises(SiteConfigError, match=r"^Expected .*\.$"):
        serve(folder, address=address, ready=print, stop=ended())


def test_loopback_works_whatever_proxy_the_hospital_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with running(folder, address="127.0.0.1:0") as agent:
        assert agent.address.startswith("127.0.0.1:")
        assert not agent.address.endswith(":0")
        assert agent.site.describe().site == "alpha"


def test_a_port_is_not_shared_with_a_second_process(folder: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SiteConfigError, match="free address"):
            serve(folder, address=address, ready=print, stop=ended())


def stale_socket(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    return bound


def socket_path(folder: Path) -> Path:
    found = parse_address(default_address(load_site_config(folder).state_dir)).path
    assert found is not None
    return found


def test_a_socket_that_nobody_listens_on_is_replaced(folder: Path) -> None:
    stale_socket(socket_path(folder)).close()
    with running(folder) as agent:
        assert agent.site.is_serving()


def test_a_socket_that_somebody_listens_on_stays(folder: Path) -> None:
    path = socket_path(folder)
    with stale_socket(path) as other:
        other.listen()
        with pytest.raises(SiteConfigError, match="a process that listens"):
            serve(folder, ready=print, stop=ended())
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


def test_a_stale_socket_is_gone_before_anything_is_bound(folder: Path) -> None:
    path = socket_path(folder)
    stale_socket(path).close()
    with claimed(parse_address(f"unix:{path}")):
        assert not path.exists()


def test_the_socket_is_held_before_anybody_listens_on_it(folder: Path) -> None:
    address = parse_address(default_address(load_site_config(folder).state_dir))
    with claimed(address), pytest.raises(SiteConfigError, match="one site process"):
        serve(folder, ready=print, stop=ended())


def test_a_file_in_the_place_of_the_socket_stays(folder: Path) -> None:
    path = socket_path(folder)
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("keep me")
    with pytest.raises(SiteConfigError, match="something else"):
        serve(folder, ready=print, stop=ended())
    assert path.read_text() == "keep me"


def test_a_second_site_process_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with running(folder) as agent:
        with pytest.raises(SiteConfigError, match="one site process"):
            serve(folder, ready=print, stop=ended())
        assert agent.site.is_serving()
