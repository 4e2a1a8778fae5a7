"""The readers, by kind of granularity, and where each granularity of a site is read from.

A new kind is one reader module beside this one and one line here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from client.config import SiteConfig
from client.findings import Finding, error, warning
from client.sources.images import IMAGES
from client.sources.markers import MARKERS
from client.sources.notes import NOTES
from client.sources.sequences import SEQUENCES
from client.sources.series import SERIES
from client.sources.source import GranularityArrays, Reader, Source, Weights
from client.sources.tables import TABULAR, read_tabular
from common.granularities import AnyGranularity, TabularGranularity

READERS: dict[str, Reader[Any]] = {
    "tabular": TABULAR,
    "series": SERIES,
    "images": IMAGES,
    "markers": MARKERS,
    "notes": NOTES,
    "sequences": SEQUENCES,
}


def several_findings(files: Sequence[Path]) -> list[Finding]:
    """A warning where several files could be meant; the first one is read."""
    if len(files) < 2:
        return []
    action = f"{files[0].name} is read; remove the others, or name one in site.toml."
    names = ", ".join(file.name for file in files)
    return [warning(files[0].parent.name, "one file of each name", names, action)]


def files_named(config: SiteConfig, name: str, granularity: AnyGranularity) -> list[Path]:
    """The files in the site folder that have the granularity's name; the first one is read."""
    candidates = [config.folder / f"{name}{s}" for s in READERS[granularity.kind].suffixes]
    return [candidate for candidate in candidates if candidate.is_file()]


def read_granularity(
    config: SiteConfig,
    name: str,
    granularity: AnyGranularity,
    *,
    patients: pd.DataFrame,
    ids: pd.Index,
) -> tuple[GranularityArrays, list[Finding]]:
    """The arrays of one granularity of a site, and what is wrong with its file.

    A file that `site.toml` names must be there. Otherwise a site without one lacks the granularity;
    a tabular granularity then has its columns in the patients' table.

    Args:
        patients: the patients' table, one row for each of `ids`.
    """
    reader = READERS[granularity.kind]
    path = config.files.get(name)
    ambiguous: list[Finding] = []
    if path is None:
        found_files = files_named(config, name, granularity)
        path = found_files[0] if found_files else None
        ambiguous = several_findings(found_files)
    elif not path.is_file():
        where = f"site.toml, data.files.{name}"
        finding = error(where, "the file that it names", "none", "Correct the name, or remove it.")
        return reader.absent(granularity, len(ids)), [finding]
    if path is not None:
        source = Source(
            granularity=name,
            path=path,
            ids=ids,
            identifiers=config.identifiers,
            weights=_weights(config, name),
        )
        arrays, findings = reader.read(source, granularity)
        return arrays, ambiguous + findings
    if isinstance(granularity, TabularGranularity):
        return read_tabular(patients, granularity, name=name, file=config.patients.name)
    expected = f"a file of granularity {name} ({', '.join(s.lstrip('.') for s in reader.suffixes)})"
    finding = warning(config.folder.name, expected, "none", "This site takes part without it.")
    return reader.absent(granularity, len(ids)), [finding]


def _weights(config: SiteConfig, name: str) -> Weights | None:
    folder = config.pretrained.get(name)
    if folder is None:
        return None
    return Weights(folder=folder, embeddings_dir=config.embeddings_dir, device=config.device)
