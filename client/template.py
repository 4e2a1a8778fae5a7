"""`wardround init-site`: a commented `site.toml`, and the tables of a study with their headers."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.errors import SiteConfigError
from common.files import write_atomically
from common.granularities import MarkersGranularity
from common.study import Study

_SITE_TOML = """\
# This hospital's own settings for Wardround. This file is never sent to anyone.
# Check it, and the data, with: wardround check-site THIS_FOLDER --study STUDY.toml

[site]
name = "{name}"    # small letters, digits, - and _; the coordinator sees it
dataset_id = "{name}-data"    # what is spent on these data is booked under this name, for ever
state_dir = "../{name}-state"    # this hospital's own books; outside this folder, and writable
device = "auto"                  # "auto": the first GPU if there is one; or "cpu", "cuda:0", …
threads = 0                      # of the processor, for the site process; 0: as many as torch likes

[data]
patients = "patients.csv"        # one row per patient: patient_id, outcomes, tabular features
identifiers = "mask"             # names, phones, record numbers: "mask", or "refuse" the file
# A granularity is read from the file of its name (vitals.csv, notes.parquet, imaging.csv that lists
# files in imaging/, genomics.vcf.gz, …). Another file: files = {{ vitals = "export/bp.csv" }}
# Weights that a study wants notes to be read by: pretrained = {{ notes = "/srv/weights" }}
lacks = []                       # granularities and outcomes that this hospital never records:
                                 # a private study tells it, because the data must not

# The policy is the floor: the coordinator may ask for something stricter, never for laxer.
# Your privacy officer signs for these lines.
[policy]
allow_without_privacy = false    # true: studies that protect no patient (privacy modes "none" and
                                 # "site") may train here
# What one patient may ever be charged by these data, over all studies (add or remove one patient).
# Remove both #, and put your own figures in: no private study trains here before.
# epsilon_budget = 10.0
# cohort_size = 300              # training patients, roughly: a figure that may be known, and
                                 # that the ledger keeps for ever
delta_budget = 1e-4              # well below 1 / (number of patients)
# epsilon_per_run = 3.0          # the most that one run may cost: with this line, the site adds
                                 # more noise than a study asks where that would cost more
min_noise_multiplier = 0.0       # the least noise, whatever a study asks
accepted_studies = []            # hashes of the studies that this hospital has agreed to
min_patients = 50                # with fewer training patients, the site takes no part; in private
                                 # studies cohort_size is what counts
smallest_group = 10              # counts and metrics over fewer patients than this are not sent;
                                 # a cell of a histogram (of scores; of survival by time and
                                 # risk) may still hold a single patient
max_rounds = 1000                # the last round that is answered
max_models_per_round = 3         # without privacy: models that a round, or the evaluation, is for
max_runs_without_privacy = 100   # how many runs without privacy these data take part in, ever
max_local_steps = 10000          # the most training steps in one round
max_update_norm = 1000.0         # larger updates are scaled down to this length
metrics = ["*"]                  # statistics that may leave; "*": all that the study declares
"""


def init_site(site_dir: Path, study: Study | None) -> list[Path]:
    """Writes `site.toml`, and with a study its tables with their headers; returns the paths.

    Raises:
        SiteConfigError: one of the files is there already; nothing is changed.
    """
    name = _site_name(site_dir)
    files = {site_dir / "site.toml": _SITE_TOML.format(name=name)}
    if study is not None:
        files[site_dir / "patients.csv"] = _header(study)
        files |= {site_dir / name: header for name, header in _files(study).items()}
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
    columns = ["patient_id"]
    for part in (*study.outcomes.values(), *study.granularities.values()):
        columns += part.columns
    return _line(columns)


def _files(study: Study) -> dict[str, str]:
    """The tables beside the patients' one, by name: those of granularities that have their own."""
    columns = {
        "series": ("patient_id", "minutes", "signal", "value"),
        "notes": ("patient_id", "minutes", "text"),
        "images": ("patient_id", "file"),
    }
    tables = {
        f"{name}.csv": _line(columns[granularity.kind])
        for name, granularity in study.granularities.items()
        if granularity.kind in columns
    }
    markers = {
        f"{name}.csv": _line(("patient_id", *granularity.markers))
        for name, granularity in study.granularities.items()
        if isinstance(granularity, MarkersGranularity)
    }
    return tables | markers


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
