"""UCI Heart Disease as four site folders: Cleveland, Budapest, Zurich/Basel and Long Beach.

The four real hospitals on which federated learning is usually measured (FLamby's
Fed-Heart-Disease). The values are kept as the hospitals recorded them: that a cholesterol of 0
means "not measured" is for the study to say, not for the importer. This module must never write
anything before every source file has proved to be the published one.
"""

import hashlib
import http.client
import logging
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from common.errors import DataError
from common.files import write_atomically
from simulations.datasets.heart_disease_patients import patients_of
from simulations.site_folder import write_site_folder

UCI_URL: Final = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
DOWNLOAD_TIMEOUT_S: Final = 60
MAX_FILE_SIZE_BYTES: Final = 1_000_000
SOURCE: Final = (
    "UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988), doi:10.24432/C52P4X,"
    " CC BY 4.0"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One hospital's files at UCI; raw76 stays None where it has no usable smoking history."""

    site: str
    processed: str
    raw76: str | None = None


HOSPITALS: Final = (
    Hospital(site="cleveland", processed="processed.cleveland.data", raw76="cleveland.data"),
    # Budapest and Switzerland know cigarettes a day for 1 and 11 patients, and their raw records
    # are in another order than the processed rows: their lifestyle is absent.
    Hospital(site="hungarian", processed="processed.hungarian.data"),
    Hospital(site="switzerland", processed="processed.switzerland.data"),
    Hospital(site="va", processed="processed.va.data", raw76="long-beach-va.data"),
)

SHA256_WITH_LF_ENDINGS: Final[Mapping[str, str]] = {
    "processed.cleveland.data": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "processed.hungarian.data": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "processed.switzerland.data": (
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"
    ),
    "processed.va.data": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
    "cleveland.data": "9278214845d1cf45cdce6404038b232ce23dedaf801709650712f6d145d1b7b7",
    "hungarian.data": "b8e4bbd06b9bf9ec831c992ba397639f22815e525c43b489e1a6e75b3be29a75",
    "long-beach-va.data": "16d44b28ccb139d07509ee17f22c51fcd568caea8beb607d1503e4a679133353",
    "switzerland.data": "fe1618a50ec2fc99f57ec1ca3fa93bd1fcad93b9daf92d49704476e3a3e4d0b2",
}


def fetch_sources(target: Path, *, base_url: str = UCI_URL) -> Path:
    """Returns `target`, holding the published files that the importer reads, downloaded from UCI.

    Guarantees:
        - A file is kept only if its checksum is the published one, and it appears whole or not at
          all.
        - A file that is there already, and is the published one, is not downloaded again.

    Args:
        target: the folder to fill; made if absent.
        base_url: where the files stand, without the last slash; a file:// URL serves a mirror.

    Raises:
        DataError: a file cannot be downloaded, or is not the published one.
    """
    target.mkdir(parents=True, exist_ok=True)
    for hospital in HOSPITALS:
        for name in filter(None, (hospital.processed, hospital.raw76)):
            path = target / name
            if path.is_file() and _is_published(name, _with_lf_endings(path.read_bytes())):
                continue
            url = f"{base_url}/{name}"
            logger.info("downloading %s", url)
            content = _published(name, _download(url), found_at=url)
            write_atomically(path, content, durable=False)
    return target


def verify_sources(source: Path) -> dict[str, bytes]:
    """Returns the verified files of a source folder: UCI's file name → contents with LF endings.

    The four processed files must be there. The 76-attribute originals may be, either in `source` or
    in `source/raw76`; one that is there must be the published one too. The importer parses the very
    bytes returned here, so that nothing can change between the check and the use.

    Args:
        source: a folder with the files as UCI names them.

    Raises:
        DataError: a processed file is missing, or a file is not the published one.
    """
    needed = [hospital.processed for hospital in HOSPITALS]
    missing = [name for name in needed if not (source / name).is_file()]
    if missing:
        raise DataError(
            f"Expected the {len(needed)} files processed.*.data of UCI Heart Disease, found"
            f" {len(needed) - len(missing)}; absent: {', '.join(missing)} ({source})."
            " Point --source at the folder that holds them, or leave --source out to download them."
        )
    contents = {}
    for name in SHA256_WITH_LF_ENDINGS:
        candidates = [source / name] if name in needed else [source / "raw76" / name, source / name]
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:
            contents[name] = _published(name, path.read_bytes(), found_at=str(path))
    return contents


def import_heart_disease(
    source: Path, out: Path, *, split: Literal["none", "flamby"] = "none"
) -> list[Path]:
    """Returns the four site folders written under `out`, one per hospital.

    Guarantees:
        - Nothing is written unless every source file is the published one.
        - The same source gives the same bytes.
        - A patient keeps one id whatever the split: site and 1-based row of the processed file.
        - A value of 0 stays 0, also where it cannot be a measurement.
        - A smoking history is written only for a patient whose raw and processed record agree:
          282 in Cleveland and all 200 of Long Beach.

    Args:
        source: the folder with UCI's files (see verify_sources).
        out: the folder that receives cleveland/, hungarian/, switzerland/ and va/.
        split: "flamby" keeps the 740 patients of FLamby's benchmark and adds its column split
            (train or test); "none" keeps all 920.

    Returns:
        The four site folders, in the order cleveland, hungarian, switzerland, va.

    Raises:
        DataError: a source file is missing or is not the published one.
    """
    contents = verify_sources(source)
    tables = {}
    for hospital in HOSPITALS:
        raw76_file = contents.get(hospital.raw76, b"") if hospital.raw76 else b""
        if hospital.raw76 and not raw76_file:
            logger.warning("site %s: no %s, lifestyle left empty", hospital.site, hospital.raw76)
        tables[hospital.site] = patients_of(
            hospital.site, contents[hospital.processed], raw76_file, split=split
        )
    for site, patients in tables.items():
        write_site_folder(
            out / site,
            site=site,
            # The same patients under either split: one data set, one privacy ledger.
            dataset_id=f"heart-disease-{site}",
            patients=patients,
            source=SOURCE,
        )
        logger.info("wrote site %s: %d patients", site, len(patients))
    return [out / site for site in tables]


def _with_lf_endings(content: bytes) -> bytes:
    # UCI and git on Windows serve some of these files with CR LF.
    return content.replace(b"\r", b"")


def _is_published(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256_WITH_LF_ENDINGS[name]


def _published(name: str, content: bytes, *, found_at: str) -> bytes:
    content = _with_lf_endings(content)
    if not _is_published(name, content):
        raise DataError(
            f"Expected {name} with SHA-256 {SHA256_WITH_LF_ENDINGS[name]} (of the file with LF"
            f" endings), found {hashlib.sha256(content).hexdigest()} ({found_at})."
            " Get the file again from the UCI repository and leave it unedited."
        )
    return content


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            content: bytes = response.read(MAX_FILE_SIZE_BYTES)
            return content
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"Expected to download {url}, found: {error}."
            " Check the network, or download the files by hand and name their folder with --source."
        ) from error
