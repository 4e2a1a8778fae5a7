"""Makes every part of a page in processes of its own, and keeps what is finished.

A part is one method on one split. Its file is named after all that it depends on, so that an
interrupted command goes on where it stopped, and a changed study, data set or code starts anew.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from client.data import pseudonym
from client.evaluation import Predictions
from common.code_version import code_fingerprint
from common.errors import WardroundError
from common.metrics.statistics import Floats
from common.run_folder import site_folders
from common.study import Study
from common.study_file import override
from simulations.bench.plain_loop import PlainSite, read_sites
from simulations.over_seeds import over_seeds
from simulations.results.held_out import HeldOut, load, save
from simulations.results.methods import Method, Opened
from simulations.results.page import Page, Split

_ROOT = Path(__file__).parents[2]
# What predictions depend on beside `client` and `common`; `server/*.py` is without its reports.
_CODE = (
    "server/*.py",
    "simulations/datasets/*.py",
    "simulations/bench/plain_loop.py",
    "simulations/arms.py",
    "simulations/engine.py",
    "simulations/logistic.py",
    "simulations/oracle.py",
    "simulations/results/methods.py",
    "simulations/simulate.py",
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A method that came to nothing on one split, and the kind of its error."""

    method: str
    split: Split
    reason: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All that was made for a page, by split.

    Attributes:
        sites: the site folders of each fold.
    """

    held: Mapping[Split, Sequence[HeldOut]]
    failures: Sequence[Failure]
    sites: Mapping[int, Path]


def make_parts(
    page: Page,
    study: Study,
    *,
    source: Path,
    out: Path,
    splits: Sequence[Split],
    jobs: int,
    on_progress: Callable[[int, int, str], None],
) -> Parts:
    """Every method on every split; what lies finished in `out` is not made again.

    Guarantees:
        - The number of processes and the order in which they finish do not matter.
        - A method that fails with an error of ours, or whose predictions are not finite, is among
          the failures, and all others are made.

    Args:
        on_progress: told how many of how many are finished, and of what.
    """
    version = _version(page, source)
    folds = sorted({split.fold for split in splits})
    sites = {fold: out / "sites" / f"fold-{fold}-{version}" for fold in folds}
    paths = {
        split: {
            method: out / "parts" / _file_name(method, split, study, version)
            for method in page.methods
        }
        for split in splits
    }
    on_progress(0, len(folds), "folds imported")
    imports = {f"fold {n}": partial(_import, page.importer, source, f) for n, f in sites.items()}
    over_seeds(imports, jobs=jobs)
    pieces = _pieces(paths, study, sites, source, jobs)
    files = [path for by in paths.values() for path in by.values()]

    def tell() -> None:
        on_progress(sum(file.is_file() for file in files), len(files), "parts finished")

    work = {name: make for name, (_, make) in pieces.items()}
    failures = [
        Failure(method=method, split=pieces[name][0], reason=reason)
        for name, reasons in over_seeds(work, jobs=jobs, on_wait=tell).items()
        for method, reason in reasons.items()
    ]
    held = {
        split: [load(path) for path in by.values() if path.is_file()] for split, by in paths.items()
    }
    return Parts(held=held, failures=failures, sites=sites)


def _pieces(
    paths: Mapping[Split, Mapping[Method, Path]],
    study: Study,
    sites: Mapping[int, Path],
    source: Path,
    jobs: int,
) -> dict[str, tuple[Split, Callable[[], dict[str, str]]]]:
    """By name, pieces of work for each split: as many as make use of all processes."""
    return {
        f"fold {split.fold}, seed {split.seed}, piece {number}": (
            split,
            partial(
                make_split,
                some,
                override(study, training__seed=split.seed),
                sites[split.fold],
                source,
            ),
        )
        for split, by_method in paths.items()
        for number, some in enumerate(_chunks(by_method, math.ceil(jobs / len(paths))))
    }


def make_split(
    paths: Mapping[Method, Path], study: Study, folder: Path, source: Path
) -> dict[str, str]:
    """Writes what each method predicts on one split to its path; returns why some failed."""
    torch.set_num_threads(1)
    failures = {}
    # On shared cores, the waiting threads of small problems cost many times what they save.
    with threadpool_limits(limits=1):
        opened = open_split(study, folder, source)
        for method, path in paths.items():
            try:
                held = held_out_by(method, opened)
            except WardroundError as error:
                failures[method.name] = f"error {error.code}"
                continue
            if method.is_partial or _is_finite(held):
                save(held, path)
            else:
                failures[method.name] = "predictions are not finite"
    return failures


def open_split(study: Study, folder: Path, source: Path) -> Opened:
    """The split of these site folders, read into memory."""
    hospitals = read_sites(study, folder)
    ids = {}
    for site in hospitals:
        column = pd.read_csv(folder / site.name / "patients.csv", dtype={"patient_id": str})
        # Cohorts know patients by a hash that is keyed anew in each process.
        by_hash = {pseudonym(i): i for i in column["patient_id"]}
        ids[site.name] = [by_hash[str(p)] for p in site.cohort.test.pseudonym_B]
    return Opened(study=study, folder=folder, source=source, hospitals=hospitals, ids=ids)


def held_out_by(method: Method, opened: Opened) -> HeldOut:
    """The held-out patients with what the method predicts for them."""
    tests = [site.cohort.test for site in opened.hospitals]
    arms = {arm: _stacked(by_site, opened.hospitals) for arm, by_site in method.run(opened).items()}
    held = HeldOut(
        id_B=np.array([i for site in opened.hospitals for i in opened.ids[site.name]], dtype=str),
        site_B=np.array([s.name for s in opened.hospitals for _ in range(len(s.cohort.test))]),
        outcomes={
            name: {key: np.concatenate([t.outcomes[name][key] for t in tests]) for key in arrays}
            for name, arrays in tests[0].outcomes.items()
        },
        present={
            name: np.concatenate([t.arrays[name]["present_B"] for t in tests])
            for name in tests[0].arrays
        },
        predictions=arms,
        num_train={site.name: len(site.cohort.train) for site in opened.hospitals},
    )
    return held.take(np.argsort(held.id_B, kind="stable"))


def _stacked(
    by_site: Mapping[str, Predictions], hospitals: Sequence[PlainSite]
) -> dict[str, Floats]:
    outcomes = next(iter(by_site.values()))
    return {name: np.concatenate([by_site[s.name][name] for s in hospitals]) for name in outcomes}


def _is_finite(held: HeldOut) -> bool:
    return all(np.isfinite(p).all() for by in held.predictions.values() for p in by.values())


def _chunks(paths: Mapping[Method, Path], num_chunks: int) -> list[dict[Method, Path]]:
    """What is not there yet, in as many parts; a split is read once for each."""
    missing = [(method, path) for method, path in paths.items() if not path.is_file()]
    chunks = [dict(missing[start::num_chunks]) for start in range(num_chunks)]
    return [chunk for chunk in chunks if chunk]


def _import(importer: Callable[[Path, Path, int], object], source: Path, folder: Path) -> None:
    """Site folders, unless they are there; "finished" is written last."""
    if (folder / "finished").is_file():
        return
    fold = int(folder.name.split("-")[1])
    importer(source, folder, fold)
    site_folders(folder)
    (folder / "finished").touch()


def _version(page: Page, source: Path) -> str:
    """A short hash of the source's files (names, sizes, times) and of the code that is run."""
    digest = hashlib.sha256(f"{page.importer.__name__} {code_fingerprint()}".encode())
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        status = path.stat()
        digest.update(f"{path.relative_to(source)} {status.st_size} {status.st_mtime_ns}".encode())
    for path in code_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def code_files() -> list[Path]:
    """Our files beside `client` and `common` on which predictions depend, both sides of a run."""
    return [path for pattern in _CODE for path in sorted(_ROOT.glob(pattern))]


def _file_name(method: Method, split: Split, study: Study, version: str) -> str:
    hashed = override(study, training__seed=split.seed).hash[:8]
    words = f"{method.name} fold {split.fold} seed {split.seed} {hashed} {version}"
    return words.replace(",", "").replace(" ", "-") + ".npz"
