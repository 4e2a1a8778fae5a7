"""A copy of a hospital's folder with canaries in it: in every id, text and column, in file headers.

The copy is in the hospital's own formats, and is read by the same code. It holds the data of a
limited number of patients; what cannot be read is copied as it is, and read again by whoever tests.
Must never write into the hospital's folder.
"""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import tomli_w

from client.config import load_site_config
from client.sources.readers import files_named
from client.sources.table_chunks import TABLE_SUFFIXES, read_table_chunks
from common.features import Feature, NumericFeature
from common.files import write_atomically
from common.granularities import (
    ImagesGranularity,
    MarkersGranularity,
    NotesGranularity,
    SequencesGranularity,
    SeriesGranularity,
    TabularGranularity,
)
from common.outcomes import RegressionOutcome, SurvivalOutcome
from common.study import Study
from simulations.canaries import Canaries
from simulations.planting_cells import Planting, plant_features, plant_series, plant_unread, put
from simulations.planting_files import plant_image, plant_lines, plant_plink


def plant(
    site_dir: Path, target: Path, study: Study, canaries: Canaries, *, most_patients: int
) -> int:
    """Writes the folder `target`: the site's data with canaries in them, and its `site.toml`.

    Returns the number of patients that are in it.

    Guarantees:
        - Nothing below `site_dir` changes, nor in the `state_dir` that its `site.toml` names.
        - Each patient id is a word of its own, the same in every file.
        - A planted number is within the study's range, and near the one that stood there.
        - The policy and the names of the site are the hospital's.

    Raises:
        SiteConfigError: `site.toml` is missing or malformed.
    """
    config = load_site_config(site_dir)
    planting = Planting(
        study=study,
        config=config,
        target=target,
        canaries=canaries,
        random=np.random.default_rng(canaries.seed),
        most_patients=max(most_patients, 2 * config.policy.min_patients),
    )
    target.mkdir(parents=True)
    files = {}
    patients = _plant_patients(planting)
    for name, granularity in study.granularities.items():
        path = config.files.get(name) or next(iter(files_named(config, name, granularity)), None)
        if path is not None and path.is_file():
            files[name] = _plant_granularity(planting, name, path)
    settings = tomllib.loads((site_dir / "site.toml").read_text(encoding="utf-8"))
    settings["site"]["state_dir"] = f"../{target.name}-state"
    settings["data"] = settings.get("data", {}) | {"patients": patients, "files": files}
    settings["policy"].pop("accepted_studies", None)
    write_atomically(target / "site.toml", tomli_w.dumps(settings).encode(), durable=False)
    return len(planting.ids)


def _plant_patients(planting: Planting) -> str:
    """The name of the patients' table in the copy."""
    path, study = planting.config.patients, planting.study
    table = _read(path)
    if table is None or "patient_id" not in table:
        return _copied(planting, path)
    planting.admit(table["patient_id"], path.name)
    table = _of_patients(planting, table)
    features: dict[str, Feature] = {}
    for granularity in study.granularities.values():
        if isinstance(granularity, TabularGranularity):
            features |= granularity.features
    known = {"patient_id", study.evaluation.split_column, *features}
    for outcome in study.outcomes.values():
        known |= set(outcome.columns)
        if isinstance(outcome, RegressionOutcome):
            features[outcome.column] = NumericFeature(unit=outcome.unit, range=outcome.range)
        elif isinstance(outcome, SurvivalOutcome):
            most = outcome.cut_points[-1]
            features[outcome.time_column] = NumericFeature(unit=outcome.unit, range=(0.0, most))
    allowed = min(g.max_unusable_fraction for g in study.granularities.values())
    plant_features(planting, table, features, allowed, path.name)
    plant_unread(planting, table, known, path.name)
    return _written(planting, table, path)


def _plant_granularity(planting: Planting, name: str, path: Path) -> str:
    """The name of a granularity's file in the copy."""
    granularity = planting.study.granularities[name]
    lower = path.name.lower()
    if isinstance(granularity, SequencesGranularity) or lower.endswith((".vcf", ".vcf.gz")):
        plant_lines(path, planting.target / path.name, planting.ids, planting.canaries)
        return path.name
    if lower.endswith(".bed"):
        plant_plink(path, planting.target / path.name, planting.ids)
        return path.name
    table = _read(path)
    if table is None or "patient_id" not in table:
        return _copied(planting, path)
    table = _of_patients(planting, table)
    known = {"patient_id", *granularity.columns}
    match granularity:
        case TabularGranularity():
            known |= set(granularity.features)
            allowed = granularity.max_unusable_fraction
            plant_features(planting, table, granularity.features, allowed, path.name)
        case MarkersGranularity():
            known |= set(granularity.markers)
            features: dict[str, Feature] = dict(granularity.numeric)
            plant_features(planting, table, features, 0.0, path.name)
        case SeriesGranularity():
            known |= {"minutes", "signal", "value"}
            plant_series(planting, table, granularity, path.name)
        case NotesGranularity():
            known |= {"minutes", "text"}
            if "text" in table:
                rows, where = planting.cells(table, "text", 1), f"{path.name}, column text"
                texts = {r: f"{table['text'][r]} {planting.canaries.word(where)}" for r in rows}
                put(table, "text", texts)
        case ImagesGranularity():
            known |= {"file"}
            _plant_images(planting, table, path)
    plant_unread(planting, table, known, path.name)
    return _written(planting, table, path)


def _plant_images(planting: Planting, table: pd.DataFrame, path: Path) -> None:
    """Copies the images under names of words, with words in their headers, and lists them so."""
    if "file" not in table:
        return
    stem = next((path.name[: -len(s)] for s in TABLE_SUFFIXES if path.name.endswith(s)), path.stem)
    folder = path.parent.resolve()
    names = {}
    for row, listed in table["file"].dropna().items():
        for base in (folder / stem, folder):
            source = (base / listed).resolve()
            if source.is_file() and source.is_relative_to(folder):
                word = planting.canaries.word(f"{path.name}, column file")
                suffix = "".join(source.suffixes[-2:])
                target = planting.target / stem / f"{word}{suffix}"
                target.parent.mkdir(exist_ok=True)
                plant_image(source, target, planting.canaries)
                names[row] = f"{word}{suffix}"
                break
    put(table, "file", names)


def _read(path: Path) -> pd.DataFrame | None:
    """The table as text; None where it cannot be read."""
    chunks = []
    for chunk, _ in read_table_chunks(path):
        if chunk is None:
            return None
        chunks.append(chunk)
    return pd.concat(chunks, ignore_index=True).astype("object") if chunks else None


def _of_patients(planting: Planting, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of patients who are copied, with a word for each id."""
    words = table["patient_id"].map(planting.ids)
    table = table[words.notna()].reset_index(drop=True)
    table["patient_id"] = words.dropna().to_numpy()
    return table


def _copied(planting: Planting, path: Path) -> str:
    if path.is_file():
        shutil.copyfile(path, planting.target / path.name)
    return path.name


def _written(planting: Planting, table: pd.DataFrame, path: Path) -> str:
    target = planting.target / path.name
    if path.suffix.lower() == ".parquet":
        _write_parquet(table, target)
    else:
        compression: Any = "gzip" if path.suffix.lower() == ".gz" else None
        table.to_csv(target, index=False, lineterminator="\n", compression=compression)
    return path.name


def _write_parquet(table: pd.DataFrame, target: Path) -> None:
    with duckdb.connect(":memory:") as connection:
        connection.register("planted", table.astype("string"))
        place = str(target).replace("'", "''")
        connection.execute(f"COPY planted TO '{place}' (FORMAT parquet)")
