"""App bundles with code in them, and runs of them: the plain app, and this checkout's relay."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient

import simulations.bench.stock_app
from simulations.flower_runtime import app_folder, copy_app

_PLAIN = "stock_app"


def plain_bundle() -> bytes:
    """The plain app as a bundle."""
    folder = Path(simulations.bench.stock_app.__file__).parent
    files: dict[str, bytes | Path] = {f"{_PLAIN}/{path.name}": path for path in folder.glob("*.py")}
    app = {
        "publisher": "wardround",
        "components": {
            "serverapp": f"{_PLAIN}.server_app:app",
            "clientapp": f"{_PLAIN}.client_app:app",
        },
        "config": {"study": "", "out": "", "num-sites": 0},
    }
    project = {
        "name": "wardround-bench",
        "version": "1.0.0",
        "license": "Apache-2.0",
        "dependencies": ["flwr>=1.41.0"],
    }
    settings = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    return build_fab_from_files({"pyproject.toml": settings.encode(), **files})[0]


def relay_bundle(folder: Path) -> bytes:
    """This checkout as a bundle, whose client app forwards to site processes.

    Args:
        folder: for a copy of what the bundle holds.
    """
    copy_app(app_folder(), folder)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return build_fab_from_files(files)[0]


def start_run(
    address: str, ca: Path, bundle: bytes, config: Mapping[str, str | int] | None = None
) -> int:
    """Starts a run of a bundle on the SuperLink at `address`; its number.

    Args:
        config: overrides of the bundle's own run configuration.
    """
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    request = StartRunRequest(fab=fab)
    for name, value in (config or {}).items():
        if isinstance(value, int):
            request.override_config[name].sint64 = value
        else:
            request.override_config[name].string = value
    with closing(ControlHttpClient(f"https://{address}", verify=str(ca))) as control:
        return int(control.StartRun(request).run_id)
