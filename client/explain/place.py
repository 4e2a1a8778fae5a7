"""Where an explanation goes: a new folder that its owner alone can open, and that nobody sends."""

from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from client.config import SiteConfig
from common.errors import SiteConfigError
from common.files import sync_folder, write_atomically

# What stands at the top of folders that others read: a run's, a coordinator's, a connector's; and
# of a site's data, whose fingerprint everything inside belongs to.
_OF_OTHERS = {
    "journal.jsonl": "a run's folder",
    "results.json": "a run's folder",
    "model.safetensors": "a run's folder",
    "consortium.toml": "the coordinator's folder",
    "roster.json": "the coordinator's folder",
    "node.key": "a connector's folder",
    "heartbeat": "a connector's folder",
    "site.toml": "a site's data folder",
}


def check_place(out: Path, config: SiteConfig, run: Path) -> None:
    """Nothing, if an explanation may be written to the folder `out`.

    Guarantees:
        - It lies in no run's, coordinator's or connector's folder, nor in the site's data or state.
        - Nothing that is there already is written over.

    Raises:
        SiteConfigError: it may not.
    """
    place = out.resolve()
    named = {run: "a run's folder", config.folder: "a site's data folder"}
    named |= {path: "a site's data folder" for path in config.data_paths if path.is_dir()}
    named[config.state_dir] = "the site's state_dir"
    for folder, what in named.items():
        if place.is_relative_to(folder.resolve()):
            raise _refusal(out, what)
    for folder in (place, *place.parents):
        for name, what in _OF_OTHERS.items():
            if (folder / name).is_file():
                raise _refusal(out, what)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise SiteConfigError(
            f"Expected no folder at {out}, or an empty one, found something. Nothing was changed; "
            "name another by --out."
        )


def write_folder(out: Path, files: Mapping[str, str]) -> None:
    """Writes the files, by name, as the new folder `out`.

    Guarantees:
        - The folder has mode 0700 and each file 0600.
        - All files are there, or no folder.
    """
    out = out.resolve()  # through a link, to the place that was checked
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # mode 0700
    try:
        for name, text in files.items():
            write_atomically(partial / name, text.encode(), durable=True, mode=0o600)
        partial.replace(out)
    finally:
        rmtree(partial, ignore_errors=True)
    sync_folder(out.parent)


def _refusal(out: Path, what: str) -> SiteConfigError:
    return SiteConfigError(
        f"Expected --out in a place of this hospital's own, found it in {what} ({out}). What is "
        "written names patients and is for this hospital's eyes alone; name another folder."
    )
