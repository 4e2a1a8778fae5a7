"""The reader of images: a table of patient_id and file, and the files that it lists.

A file is looked for in the folder named as the table (imaging.csv: imaging/), then beside the
table. No path leads out of the table's folder: not "..", not an absolute one, no link.

Letters of shapes: B patients, N images, H height, W width.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.dicom import FrameDecoder
from client.sources.frames import MAX_PIXELS, ImageRefusedError, quiet
from client.sources.identifiers import column_findings
from client.sources.image_files import read_frames
from client.sources.source import GranularityArrays, Reader, Source, places_of
from client.sources.table_chunks import TABLE_SUFFIXES
from client.sources.tables import read_table
from client.sources.xray import model_image
from common.granularities import ImagesGranularity

_COLUMNS = ("patient_id", "file")

# What is wrong with a listed file, what was expected, and what to do.
_FAULTS = {
    "absent": ("files that exist", "Add them, or take them off the list."),
    "unreadable": ("whole image files", "Copy or export them again."),
    "unsupported": (
        "PNG, JPEG, DICOM or NIfTI images, grayscale or RGB, 2-D or 3-D",
        "Convert them.",
    ),
    "too large": (f"images of at most {MAX_PIXELS} pixels", "Export them smaller."),
}


def read_images(
    source: Source, granularity: ImagesGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The images of each patient in the order of the table, and what is wrong with them.

    Guarantees:
        - A place without an image is False in "observed_BN" and holds 0.
        - A patient without a readable image is not "present_B".
        - The first max_images are used; a listed file that is not readable takes no place.
        - One picture is in memory at a time, beside the result.

    Returns:
        "images_BNHW" uint8, "observed_BN" bool, "present_B" bool; and the findings.
    """
    arrays = absent_images(granularity, len(source.ids))
    where = source.path.name
    table, findings = read_table(source.path)
    if table is None:
        return arrays, findings
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        found = f"no {' and no '.join(missing)}"
        action = "Name the columns so: one row per image."
        return arrays, [*findings, error(where, "columns patient_id and file", found, action)]
    findings += column_findings(
        table.columns, exempt=_COLUMNS, file=where, identifiers=source.identifiers
    )
    places, found_places = places_of(table["patient_id"], source)
    findings += found_places
    listing = _Listing(folder=source.path.parent.resolve(), stem=_stem(source.path))
    try:
        with quiet(), FrameDecoder() as decoder:
            for place, path in listing.paths(table["file"], places):
                _read_into(arrays, place, path, granularity, decoder, listing.counts)
    except ImportError:
        action = "Install them on this computer: pip install 'wardround[imaging]'."
        found = "one that is not installed"
        return arrays, [*findings, error(where, "the libraries of images", found, action)]
    arrays["present_B"] = np.asarray(arrays["observed_BN"].any(axis=1))
    return arrays, findings + listing.findings(where, granularity)


def absent_images(granularity: ImagesGranularity, num_patients: int) -> GranularityArrays:
    """No image, for a site without them."""
    shape = (num_patients, granularity.max_images)
    return {
        "images_BNHW": np.zeros((*shape, *granularity.size), dtype=np.uint8),
        "observed_BN": np.zeros(shape, dtype=np.bool_),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


def _stem(path: Path) -> str:
    """The name of the table without its suffixes: that of the folder of its files."""
    name = path.name
    suffix = next((s for s in (".csv.gz", ".csv", ".parquet") if name.lower().endswith(s)), "")
    return name[: -len(suffix)] if suffix else path.stem


def _read_into(
    arrays: GranularityArrays,
    place: int,
    path: Path,
    granularity: ImagesGranularity,
    decoder: FrameDecoder,
    counts: "Counter[str]",
) -> None:
    """Puts the images of one file behind those that the patient has already."""
    first = int(arrays["observed_BN"][place].sum())
    limit = granularity.max_images - first
    if limit == 0:
        counts["surplus"] += 1
        return
    try:
        images = [model_image(f, granularity) for f in read_frames(path, limit, decoder)]
    except ImageRefusedError as refusal:
        counts[refusal.reason] += 1
        return
    last = first + len(images)
    if images:
        arrays["images_BNHW"][place, first:last] = images
        arrays["observed_BN"][place, first:last] = True


@dataclass(kw_only=True)
class _Listing:
    """The files that the table lists, and the counts of what is wrong with them.

    Attributes:
        folder: of the table, resolved; no file may lie outside of it.
        stem: the name of the folder in which files are looked for first.
    """

    folder: Path
    stem: str
    counts: "Counter[str]" = field(default_factory=Counter)
    patient_of: dict[Path, int] = field(default_factory=dict)

    def paths(
        self, files: "pd.Series[str]", places: NDArray[np.int64]
    ) -> Iterator[tuple[int, Path]]:
        """The place of the patient and the path of each file that is there."""
        for name, place in zip(files, places.tolist(), strict=True):
            if place < 0:
                continue
            if pd.isna(name):
                self.counts["unnamed"] += 1
                continue
            self.counts["listed"] += 1
            path = self._inside(name)
            if path is None:
                continue
            self.counts["shared"] += self.patient_of.setdefault(path, place) != place
            yield place, path

    def findings(self, where: str, granularity: ImagesGranularity) -> list[Finding]:
        """What is wrong, in counts; errors where too many files cannot be used."""
        counts, listed = self.counts, self.counts["listed"]
        findings = []
        if counts["outside"]:
            found = f"{counts['outside']} of {listed} outside"
            action = "Copy these files into the folder."
            findings.append(error(where, "files below the table's folder", found, action))
        num_unusable = sum(counts[fault] for fault in _FAULTS)
        tell = error if num_unusable > granularity.max_unusable_fraction * listed else warning
        for fault, (expected, action) in _FAULTS.items():
            if counts[fault]:
                found = f"{counts[fault]} of {listed} {fault}"
                findings.append(tell(where, expected, found, action))
        for count, expected, found, action in (
            ("unnamed", "a file in each row", "rows without one", "They are not used."),
            (
                "shared",
                "a file for each image",
                "rows with a file of another patient",
                "Check that they show whom they should.",
            ),
            (
                "surplus",
                f"at most {granularity.max_images} images of a patient",
                "more",
                "The first ones are used.",
            ),
        ):
            if counts[count]:
                findings.append(warning(where, expected, f"{counts[count]} {found}", action))
        return findings

    def _inside(self, name: str) -> Path | None:
        """The resolved path of a file within the folder; None, and counted, where there is none."""
        relative = Path(name)
        is_outside = relative.is_absolute() or ".." in relative.parts
        if not is_outside:
            for base in (self.folder / self.stem, self.folder):
                try:
                    path = (base / relative).resolve()
                    is_file = path.is_file()
                except (OSError, ValueError, RuntimeError):  # no name of a file, or a loop
                    continue
                if is_file and path.is_relative_to(self.folder):
                    return path
                is_outside |= is_file
        self.counts["outside" if is_outside else "absent"] += 1
        return None


IMAGES: Reader[ImagesGranularity] = Reader(
    suffixes=TABLE_SUFFIXES, read=read_images, absent=absent_images
)
