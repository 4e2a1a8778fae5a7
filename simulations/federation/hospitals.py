"""A hospital's folder for a trial: its own data, with books, keys and ledger of the trial's own.

Must never write into the hospital's folder, nor into the state that its `site.toml` names.
"""

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from client.check import SiteCheck, check_site
from client.config import SiteConfig, load_site_config
from client.prepared import UNLIMITED
from client.sources.readers import files_named
from common.errors import DataError
from common.files import write_atomically
from common.privacy.sections import PatientPrivacy
from common.study import Study

STATE = "state"
# A study pays for few rounds that are trained again; who tries may interrupt it more often.
_BUDGET_FACTOR = 2.0


def derive_site(folder: Path, target: Path, study: Study, *, keep: bool = False) -> SiteConfig:
    """The site folder `target`, which reads the data of `folder` where they are.

    `target` has a `site.toml` of its own and links to what else is in `folder`. Files that the
    study reads are named in `site.toml` instead: those that name others (images) may not be linked.

    Guarantees:
        - Nothing below `folder` changes, nor in the `state_dir` that its `site.toml` names.
        - The policy is the hospital's, but for studies that it has accepted elsewhere. Of a private
          study, what a person must decide and `site.toml` leaves open is taken from the data and
          the study.
        - The site computes with one thread, so that its updates are those of a simulation.

    Args:
        keep: leave a `site.toml` that is there as it is; a ledger keeps the figures in it.

    Raises:
        SiteConfigError: the hospital's `site.toml` is missing or malformed.
        DataError: the hospital could not take part; every reason is told.
    """
    config = load_site_config(folder)
    used = {n: f[0] for n, g in study.granularities.items() if (f := files_named(config, n, g))}
    named = used | dict(config.files)
    _link(config, target, named={config.patients, *named.values()})
    if not (keep and (target / "site.toml").is_file()):
        settings = tomllib.loads((folder / "site.toml").read_text(encoding="utf-8"))
        files = {name: str(path) for name, path in named.items()}
        settings["site"] |= {"state_dir": f"../{STATE}", "threads": 1}
        settings["data"] = settings.get("data", {}) | {
            "patients": str(config.patients),
            "files": files,
        }
        settings["policy"].pop("accepted_studies", None)
        _write(target, settings)
        if isinstance(study.privacy, PatientPrivacy):
            _decide(target, settings, study, study.privacy)
    _refuse_faults(check_site(target, study))
    return load_site_config(target)


def _link(config: SiteConfig, target: Path, *, named: set[Path]) -> None:
    """Links to what is in the hospital's folder beside `named`: the fingerprint covers it too."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in target.iterdir():
        if entry.is_symlink():
            entry.unlink()
    for entry in config.folder.iterdir():
        if entry.name != "site.toml" and entry not in named:
            (target / entry.name).symlink_to(entry)


def _decide(target: Path, settings: dict[str, Any], study: Study, privacy: PatientPrivacy) -> None:
    """Writes what a person would have to decide of a private study, where nobody has."""
    counts = check_site(target, study).training
    if counts is None:
        return  # the errors of the folder are told by the caller's check
    policy = settings["policy"]
    policy.setdefault("cohort_size", max(counts["patients"], 1))
    if "epsilon_budget" not in policy:
        # A study may name its noise alone.
        asked = privacy.epsilon or UNLIMITED
        policy["epsilon_budget"] = _BUDGET_FACTOR * asked
        policy["delta_budget"] = max(policy.get("delta_budget", 0.0), privacy.delta)
    lacking = {name for name, count in counts.items() if count == 0}
    if lacking:
        settings["data"]["lacks"] = sorted({*settings["data"].get("lacks", ()), *lacking})
    _write(target, settings)


def _write(target: Path, settings: dict[str, Any]) -> None:
    text = f"# Written for a trial on one machine by Wardround.\n\n{tomli_w.dumps(settings)}"
    write_atomically(target / "site.toml", text.encode(), durable=True)


def _refuse_faults(checked: SiteCheck) -> None:
    faults = [finding.sentence() for finding in checked.findings if finding.severity == "error"]
    if faults:
        raise DataError("\n".join(faults))
