"""The reader of genomic markers: a wide table (CSV, Parquet), a VCF file, or PLINK's .bed.

A wide table has one row per patient and one column per marker. In a VCF file a sample's name is the
patient's id, in PLINK files the individual id; see `vcf` and `plink` for which allele is counted.

Letters of shapes: B patients, F markers, S samples or rows of the file.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.genotypes import Genotypes
from client.sources.identifiers import column_findings
from client.sources.line_files import BrokenFileError, absent_file, broken_file
from client.sources.numbers import Floats, floats_of, number_findings, numbers_of
from client.sources.plink import companions, read_plink
from client.sources.source import GranularityArrays, Reader, Source, places_of
from client.sources.table_chunks import column_names
from client.sources.tables import read_table
from client.sources.vcf import read_vcf
from common.features import NumericFeature
from common.granularities import MarkersGranularity

_VCF, _PLINK = (".vcf", ".vcf.gz"), (".bed",)


def read_markers(
    source: Source, granularity: MarkersGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The markers of each patient, and what is wrong with the file.

    Guarantees:
        - A missing value is False in "observed_BF", and its place holds 0.
        - A patient for whom no marker was observed is not "present_B".
        - Values outside the plausible range are clipped to it, and counted over all markers.
        - Two rows or samples of one patient are an error.

    Returns:
        "numeric_BF" float32 in the granularity's unit, "observed_BF" bool, "present_B" bool; and
        the findings.
    """
    name = source.path.name.lower()
    if name.endswith(_VCF + _PLINK):
        values_BF, findings = _from_genotypes(source, granularity)
    else:
        values_BF, findings = _from_table(source, granularity)
    if values_BF is None:
        return absent_markers(granularity, len(source.ids)), findings
    values_BF, found = _usable(values_BF, granularity, source.path.name)
    observed_BF: NDArray[np.bool_] = ~np.isnan(values_BF)
    arrays: GranularityArrays = {
        "numeric_BF": np.where(observed_BF, values_BF, 0.0).astype(np.float32),
        "observed_BF": observed_BF,
        "present_B": np.asarray(observed_BF.any(axis=1)),
    }
    return arrays, findings + found


def absent_markers(granularity: MarkersGranularity, num_patients: int) -> GranularityArrays:
    """Nothing observed, for a site without markers."""
    shape = (num_patients, len(granularity.markers))
    return {
        "numeric_BF": np.zeros(shape, dtype=np.float32),
        "observed_BF": np.zeros(shape, dtype=np.bool_),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


def _from_table(
    source: Source, granularity: MarkersGranularity
) -> tuple[Floats | None, list[Finding]]:
    """The values of a wide table, NaN where missing; None where there is no such table."""
    where = source.path.name
    names, findings = column_names(source.path)
    if findings:
        return None, findings
    used = {"patient_id", *granularity.markers}
    table, findings = read_table(source.path, used)
    if table is None:
        return None, findings
    if "patient_id" not in names:
        found = error(where, "a column patient_id", "none", "Name the column of ids so.")
        return None, [*findings, found]
    findings += column_findings(names, exempt=used, file=where, identifiers=source.identifiers)
    places_S, found_places = _places(table["patient_id"], source, "rows")
    known = [marker in table.columns for marker in granularity.markers]
    findings += found_places + _missing(known, where)
    columns = [marker for marker in granularity.markers if marker in table.columns]
    cells = pd.Series(
        table.loc[places_S >= 0, columns].to_numpy(dtype=object).ravel(), dtype=object
    )
    values, num_text = floats_of(cells)
    if num_text:
        expected, found_text = f"numbers ({granularity.unit})", f"{num_text} cells of text"
        findings.append(error(where, expected, found_text, "Fix the columns of the markers."))
    num_rows = int((places_S >= 0).sum())
    return _placed(values.reshape(num_rows, len(columns)), places_S, known, source), findings


def _from_genotypes(
    source: Source, granularity: MarkersGranularity
) -> tuple[Floats | None, list[Finding]]:
    """The dosages of a VCF file or of PLINK files, NaN where missing; None where there are none."""
    path, where = source.path, source.path.name
    is_plink = where.lower().endswith(_PLINK)
    files = (path, *companions(path)) if is_plink else (path,)
    absent = [absent_file(file.name) for file in files if not file.is_file()]
    if absent:
        return None, absent
    patients = frozenset(source.ids)
    try:
        if is_plink:
            genotypes = read_plink(path, granularity.markers, patients)
        else:
            genotypes = read_vcf(path, granularity.markers, patients)
    except BrokenFileError as fault:
        expected = "whole .bed, .bim and .fam files of one another" if is_plink else "a whole VCF"
        return None, [broken_file(where, expected, fault)]
    except ImportError:
        action = "Install it on this computer: pip install 'wardround[genomics]'."
        return None, [error(where, "the library bed-reader", "none", action)]
    places_S, findings = _places(pd.Series(genotypes.samples, dtype=object), source, "samples")
    if any(f.severity == "error" for f in findings):
        return None, findings
    genotypes.dosage_PW[:, genotypes.ambiguous_W] = np.nan
    known = list(genotypes.found_W | genotypes.ambiguous_W)
    findings += _missing(known, where) + _faults(genotypes, where)
    dosage_PF = genotypes.dosage_PW.astype(np.float64)
    return _placed(dosage_PF, places_S, [True] * len(known), source), findings


def _places(
    names: "pd.Series[str]", source: Source, noun: str
) -> tuple[NDArray[np.int64], list[Finding]]:
    places_S, findings = places_of(names, source, noun=noun)
    num_repeated = int(pd.Series(places_S[places_S >= 0]).duplicated().sum())
    if num_repeated:
        found = f"{num_repeated} {noun} that repeat one"
        action = "Merge them: a patient has one value of each marker."
        findings.append(error(source.path.name, "every patient once", found, action))
        places_S[pd.Series(places_S).duplicated().to_numpy()] = -1
    return places_S, findings


def _placed(
    values_PF: Floats, places_S: NDArray[np.int64], known: list[bool], source: Source
) -> Floats:
    """The rows of the patients on axis B, the known markers on axis F, NaN elsewhere."""
    placed_BF = np.full((len(source.ids), len(known)), np.nan)
    placed_BF[np.ix_(places_S[places_S >= 0], np.flatnonzero(known))] = values_PF
    return placed_BF


def _missing(known: list[bool], where: str) -> list[Finding]:
    num_missing = len(known) - sum(known)
    if not num_missing:
        return []
    expected = f"the {len(known)} markers of the study"
    if num_missing == len(known):
        return [warning(where, expected, "none", "This site takes part without them.")]
    found, action = f"{num_missing} missing", "They count as missing for all patients."
    return [warning(where, expected, found, action)]


def _faults(genotypes: Genotypes, where: str) -> list[Finding]:
    findings = []
    num_ambiguous = int(genotypes.ambiguous_W.sum())
    if num_ambiguous:
        found = f"{num_ambiguous} that stand in several records, or with several alleles"
        action = "They count as missing; name them CHROM:POS:REF:ALT in the study."
        findings.append(warning(where, "markers that stand for one allele", found, action))
    if genotypes.num_malformed_records:
        found = f"{genotypes.num_malformed_records} other records"
        expected = "as many columns in each record as in the header"
        findings.append(error(where, expected, found, "Export the file again."))
    if genotypes.num_malformed_cells:
        found = f"{genotypes.num_malformed_cells} other values"
        findings.append(error(where, "genotypes and dosages", found, "Export the file again."))
    return findings


def _usable(
    values_BF: Floats, granularity: MarkersGranularity, where: str
) -> tuple[Floats, list[Finding]]:
    """The values clipped to the plausible range, NaN where infinite; judged over all markers."""
    feature = NumericFeature(unit=granularity.unit, range=granularity.range)
    values, counts = numbers_of(pd.Series(values_BF.ravel()), feature)
    allowed = granularity.max_unusable_fraction
    findings = number_findings(counts, feature, column="markers", where=where, allowed=allowed)
    return values.reshape(values_BF.shape), findings


MARKERS: Reader[MarkersGranularity] = Reader(
    suffixes=(".csv", ".csv.gz", ".parquet", ".vcf", ".vcf.gz", ".bed"),
    read=read_markers,
    absent=absent_markers,
)
