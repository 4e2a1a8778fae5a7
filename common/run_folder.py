"""Where a run keeps its files, and where the sites of a simulation are: both sides look them up."""

from pathlib import Path

from common.errors import RunError


def run_folder(out: str, run_id: int) -> Path:
    """The folder of a Flower run: `out`, or one named after Flower's id where `out` is empty."""
    return Path(out) if out else Path.cwd() / "runs" / f"flower-{run_id}"


def check_unused(run_dir: Path) -> None:
    """Nothing, unless the folder holds a run already.

    Raises:
        RunError: it does, and would be mixed with another.
    """
    if (run_dir / "journal.jsonl").exists():
        raise RunError(
            f"Expected an empty run folder, found a run in {run_dir}. Go on with it by --resume, "
            "or name another folder by --out."
        )


def check_used(run_dir: Path) -> None:
    """Nothing, if the folder holds a run to go on with.

    Raises:
        RunError: it does not.
    """
    if not (run_dir / "journal.jsonl").is_file():
        raise RunError(
            f"Expected a run to go on with in {run_dir}, found none. Leave --resume out, or name "
            "the run's folder by --out."
        )


def site_folders(sites: Path) -> list[Path]:
    """The site folders (those with a `site.toml`) below `sites`, in the order of their names.

    Raises:
        RunError: there are none.
    """
    folders = sorted(path.parent for path in sites.glob("*/site.toml"))
    if not folders:
        raise RunError(
            f"Expected folders with a site.toml below {sites}, found none. Make some with "
            "`wardround data`, or check the path (Flower needs an absolute one)."
        )
    return folders
