"""Faults for the canary sweep: damaged folders, and exceptions that quote a patient."""

import gzip
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from common.study import Study
from simulations.canaries import Canaries
from simulations.cohort import SiteEffects, write_cohort

STUDY = """
[study]
name = "sweep"
[outcomes.event]
column = "event"
kind = "binary"
classes = ["no", "yes"]
[outcomes.stay]
column = "stay_days"
kind = "regression"
unit = "days"
range = [0, 60]
[granularities.labs]
kind = "tabular"
hidden = [4]
[granularities.labs.features]
age_years = { kind = "numeric", unit = "years", range = [18, 100] }
cholesterol_mg_dl = { kind = "numeric", unit = "mg/dl", range = [60, 500] }
sex = { kind = "categorical", categories = ["female", "male"] }
[granularities.vitals]
kind = "series"
encoder = "summary"
end_minutes = 240
signals = { heart_rate_bpm = { kind = "numeric", unit = "bpm", range = [20, 300] } }
[granularities.notes]
kind = "notes"
max_tokens = 16
[granularities.imaging]
kind = "images"
size = [8, 8]
channels = [2]
[granularities.genomics]
kind = "markers"
hidden = []
unit = "expression"
range = [0, 100]
markers = ["g1", "g2"]
[normalisation]
method = "federated"
[evaluation]
score_bins = 10
subgroups = ["sex", { feature = "age_years", edges = [60] }]
attributions = true
[model]
width = 4
[training]
rounds = 2
local_epochs = 1
batch_size = 32
learning_rate = 0.1
"""

TABLES = ("patients", "vitals", "notes", "imaging", "genomics")


# Each command of a hospital, and where it crashes: (words behind SITE_DIR, module, function).
COMMANDS: dict[str, tuple[list[str], str, str]] = {
    "check-site": (["--study", "STUDY"], "client.check", "check_site"),
    "check-site --json": (["--study", "STUDY", "--json"], "client.check", "read_cohort"),
    "predict": (["--run", "RUN", "--out", "OUT"], "client.prediction", "predict_site"),
    "ledger": ([], "client.ledger.view", "view_ledger"),
    "ledger --json": (["--json"], "client.ledger.view", "view_ledger"),
    "audit": ([], "client.audit_view", "view_audit"),
    "site serve": ([], "client.agent", "serve"),
    "site up": (["--superlink", "127.0.0.1:1"], "client.supervision.up", "up"),
    "site status": (["--json"], "client.status", "status_of"),
    "site keys": ([], "client.site_keys", "make_site_keys"),
    "study list": ([], "client.acceptance", "standings"),
    "study accept": (["STUDY", "--yes", "--hash", "HASH"], "client.acceptance", "accept"),
    "explain": (["--run", "RUN", "--out", "OUT"], "client.explain.explain", "explain_site"),
    "dossier": (["--out", "OUT"], "client.dossier.making", "make_dossier"),
    "site self-test": (["--study", "STUDY"], "simulations.self_test", "run_self_test"),
}


def write_hospital(study: Study, folder: Path) -> Path:
    """A simulated hospital in a folder of its own."""
    write_cohort(study, [SiteEffects(name="ada", num_patients=90)], folder, seed=0)
    return folder / "ada"


def quote_of(canaries: Canaries) -> str:
    """What an exception of a careless library would say."""
    words, numbers = list(canaries.words), list(canaries.numbers)
    return f"could not convert {words[0]!r} of {words[-1]!r}: {numbers[0]!r}, {numbers[-1]}"


def _rewritten(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        change(table).to_csv(path, index=False)

    return damage


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return damage


def _without_column(place: int) -> Callable[[Path], None]:
    return _rewritten(lambda table: table.drop(columns=table.columns[place]))


def _filled(text: str, *, column: int = -2) -> Callable[[Path], None]:
    return _rewritten(lambda table: table.assign(**{table.columns[column]: text}))


def _quoted(path: Path) -> None:
    """A canary of the first patient in every cell of every column."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    word = str(table.iloc[0, 0])
    table.loc[:, [c for c in table.columns if c != "patient_id"]] = word
    table.to_csv(path, index=False)


def _packed(path: Path) -> None:
    """Gzip, cut off, under the name of a plain file."""
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])


# What is done to a table. Each leaves canaries in the file.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in the middle": _bytes(lambda data: data[: len(data) // 2]),
    "without its header": _bytes(lambda data: data.split(b"\n", 1)[1]),
    "in UTF-16": _bytes(lambda data: data.decode().encode("utf-16")),
    "with zeros": _bytes(lambda data: data[:400] + bytes(40) + data[400:]),
    "with an open quote": _bytes(lambda data: data[:300] + b'"' + data[300:]),
    "with other separators": _bytes(lambda data: data.replace(b",", b";")),
    "with a word in every cell": _quoted,
    "with infinity": _filled("inf"),
    "out of range": _filled("1e12"),
    "without patient_id": _without_column(0),
    "without its second column": _without_column(1),
    "with each row twice": _rewritten(lambda table: pd.concat([table, table])),
    "of one patient": _rewritten(lambda table: table.head(1)),
    "without rows": _rewritten(lambda table: table.head(0)),
    "packed and cut off": _packed,
}


def copy_of(folder: Path, target: Path) -> Path:
    """A copy of a site's folder, with a state folder of its own."""
    shutil.copytree(folder, target / folder.name)
    return target / folder.name


def damage_images(folder: Path) -> None:
    """Cuts every image off behind its header, where the canary stands."""
    for path in images_of(folder):
        path.write_bytes(path.read_bytes()[:90])


def exchange_images(folder: Path) -> None:
    """Puts the patients' table in the place of every image."""
    for path in images_of(folder):
        shutil.copyfile(folder / "patients.csv", path)


def images_of(folder: Path) -> Iterable[Path]:
    """The files of images."""
    return (folder / "imaging").iterdir()
