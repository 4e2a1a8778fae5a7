"""`wardround init-site`: a commented `site.toml`, and a table with the header of a study."""

import csv
import io
from pathlib import Path

from common.errors import SiteConfigError
from common.files import write_atomically
from common.study import Study

_SITE_TOML = """\
# This hospital's own settings for Wardround. This file is never sent to anyone.
# Check it, and the data, with: wardround check-site THIS_FOLDER --study STUDY.toml

[site]
name = "{name}"                  # small letters, digits, - and _; the coordinator sees it
dataset_id = "{name}-data"       # what is spent on these data is booked under this name, for ever
state_dir = "../{name}-state"    # this hospital's own books; outside this folder, and writable
device = "auto"                  # "auto": the first GPU if there is one; or "cpu", "cuda:0", …

[data]
patients = "patients.csv"        # one row per patient: patient_id, the outcome, the features

# The policy is the floor: the coordinator may ask for something stricter, never for laxer.
# Your privacy officer signs for these lines.
[policy]
allow_without_privacy = false    # true: studies without differential privacy may train here
accepted_studies = []            # hashes of the studies that this hospital has agreed to
min_patients = 50                # with fewer training patients, the site takes no part
smallest_group = 10              # counts and metrics over fewer patients than this are not sent;
                                 # a cell of a score histogram may still hold one patient
max_rounds = 1000                # the last round that is answered
max_local_steps = 10000          # the most training steps in one round
max_update_norm = 1000.0         # larger updates are scaled down to this length
metrics = ["*"]                  # statistics that may leave; "*": all that the study declares
"""


def init_site(site_dir: Path, study: Study | None) -> list[Path]:
    """Writes `site.toml`, and with a study `patients.csv` with its header; returns the paths.

    Raises:
        SiteConfigError: one of the files is there already; nothing is changed.
    """
    name = _site_name(site_dir)
    files = {site_dir / "site.toml": _SITE_TOML.format(name=name)}
    if study is not None:
        files[site_dir / "patients.csv"] = _header(study)
    for path in files:
        if path.exists():
            raise SiteConfigError(
                f"Expected no {path.name} in {site_dir}, found one. Nothing was changed; name "
                "another folder, or move the file away."
            )
    for path, text in files.items():
        write_atomically(path, text.encode(), durable=False)
    return list(files)


def _site_name(site_dir: Path) -> str:
    letters = [c if c.isascii() and c.isalnum() else "-" for c in site_dir.resolve().name.lower()]
    return "".join(letters).strip("-")[:60] or "our-hospital"


def _header(study: Study) -> str:
    columns = ["patient_id", study.outcome.column]
    for granularity in study.granularities.values():
        columns += granularity.features
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(columns)
    return line.getvalue()
