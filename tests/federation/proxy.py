"""A real nginx on loopback with the configuration that is shipped, and what stands behind it.

As an ordinary process below a folder of its own, ended by its pid.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simulations.marked_processes import free_port
from tests.federation.deployment import until

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy" / "nginx" / "wardround.conf.template"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

_MAIN = """
daemon off;
master_process on;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 128; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {folder}/wardround.conf;
}}
"""


def filled_in(values: Mapping[str, str]) -> str:
    """The template as `envsubst` makes it of these values."""
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


@contextmanager
def proxy(
    folder: Path, provisioned: Path, upstream: str, *, max_body: str = "8m"
) -> Iterator[tuple[str, int]]:
    """HOST:PORT of an nginx in front of `upstream`, and its pid.

    Args:
        provisioned: the coordinator's folder, whose certificates it has.
    """
    assert NGINX is not None
    certificates, port = folder / "certificates", free_port()
    certificates.mkdir(parents=True)
    for name in ("ca.pem", "server.pem", "crl.pem", "private/server.key"):
        shutil.copy(provisioned / name, certificates)
    values = {
        "WARDROUND_LISTEN": f"127.0.0.1:{port}",
        "WARDROUND_HOST": "localhost",
        "WARDROUND_CERTIFICATES": str(certificates),
        "WARDROUND_SUPERLINK": upstream,
        "WARDROUND_MAX_BODY": max_body,
        "WARDROUND_LOGS": str(folder),
    }
    (folder / "wardround.conf").write_text(filled_in(values), encoding="utf-8")
    user = "user root;" if os.getuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(_MAIN.format(folder=folder, user=user), encoding="utf-8")
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: _listens(process, port, folder))
        yield f"localhost:{port}", process.pid
    finally:
        process.send_signal(signal.SIGQUIT if process.poll() is None else 0)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(10)


class Upstream(ThreadingHTTPServer):
    """Stands for the SuperLink: notes what reaches it, and says 200."""

    daemon_threads = True

    def __init__(self, provisioned: Path) -> None:
        self.seen: list[tuple[str, str, dict[str, str], int]] = []
        super().__init__(("127.0.0.1", 0), _Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(provisioned / "server.pem", provisioned / "private" / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        assert isinstance(self.server, Upstream)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, len(body)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_PUT = do_DELETE = do_POST

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def upstream(provisioned: Path) -> Iterator[Upstream]:
    server = Upstream(provisioned)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _listens(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    assert process.poll() is None, (folder / "output").read_text(encoding="utf-8")
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
