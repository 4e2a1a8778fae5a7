"""Every format of file that a site reads: how its mutants are made, and what reads them.

The files hold canaries: ids, words and numbers that stand nowhere else. A format, made ready in a
folder, gives for each number a mutant on the disk and the call that reads it as a site does.
"""

import gzip
import random
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from PIL import Image

from client.config import load_site_config
from client.findings import Finding, error
from client.sources.dicom import FrameDecoder
from client.sources.frames import ImageRefusedError
from client.sources.image_files import read_frames
from client.sources.markers import MARKERS
from client.sources.sequences import SEQUENCES
from client.sources.source import Source
from client.sources.xray import model_image
from client.template import init_site
from common.granularities import ImagesGranularity, MarkersGranularity, SequencesGranularity
from common.study_file import load_study, shipped_text
from tests.attacks.file_mutations import (
    damaged,
    damaged_dicom,
    damaged_fields,
    damaged_nifti_fields,
    damaged_png,
    damaged_toml,
)
from tests.unit.image_builders import (
    CANARY,
    COMPRESSED,
    compressed_dicom_bytes,
    dicom_bytes,
    dicom_dataset,
    jpeg_bytes,
    nifti_bytes,
    png_bytes,
    ramp,
)
from tests.unit.marker_builders import Record, plink_files, vcf_text
from tests.unit.test_table_mutations import CASES, IDS, mutant, write

Read = Callable[[], Sequence[Finding]]
Trial = Callable[[int], Read]
Format = Callable[[Path], Trial]

NUM_VARIANTS = 12
_NAMES = tuple(f"{CANARY}{number}" for number in range(6))
_MARKER_NAMES = tuple(f"rs{i}" for i in range(NUM_VARIANTS))
_MARKERS = MarkersGranularity.model_validate(
    {"kind": "markers", "markers": _MARKER_NAMES, "max_unusable_fraction": 0.9}
)
_SEQUENCES = SequencesGranularity.model_validate(
    {"kind": "sequences", "max_tokens": 32, "max_unusable_fraction": 0.9}
)
_IMAGES = ImagesGranularity.model_validate(
    {"kind": "images", "size": (8, 8), "channels": (2,), "contrast": "stretch"}
)
# Other types and codecs than a table of text has.
_PARQUET_COLUMNS = (
    "patient_id, age_years::DOUBLE AS age_years, stage, name",
    "patient_id, age_years::DECIMAL(9, 5) AS age_years, stage::BLOB AS stage, name",
    "patient_id, [age_years, name] AS age_years, {'a': stage} AS stage, MAP {name: 1} AS name",
    "patient_id, TIMESTAMP '2020-01-01' AS age_years, uuid() AS stage, INTERVAL 1 DAY AS name",
)
_CODECS = ("snappy", "zstd", "gzip", "lz4_raw", "brotli", "uncompressed")


def tables(suffix: str, folder: Path) -> Trial:
    """The three kinds of tables, damaged as `test_table_mutations` does."""
    cases = []
    for name, case in CASES.items():
        reader, granularity, table = case()
        path = folder / f"{name}{suffix}"
        cases.append((name, reader, granularity, path, write(table, path)))

    def trial(number: int) -> Read:
        name, reader, granularity, path, content = cases[number % len(cases)]
        # Numbers that the unit test does not use, so that this campaign sees other mutants.
        path.write_bytes(mutant(content, suffix, random.Random(f"door {name} {suffix} {number}")))
        source = Source(granularity=name, path=path, ids=pd.Index(IDS))
        return lambda: reader.read(source, granularity)[1]

    return trial


def typed_parquet(folder: Path) -> Trial:
    """Nested and binary types in every codec; hit in the footer, or in the pages."""
    reader, granularity, table = CASES["tabular"]()
    path = folder / "typed.parquet"
    contents = []
    with duckdb.connect(":memory:") as connection:
        connection.register("source", table)
        for i in range(len(_PARQUET_COLUMNS) * len(_CODECS)):
            columns, codec = _PARQUET_COLUMNS[i // len(_CODECS)], _CODECS[i % len(_CODECS)]
            rows = f"SELECT {columns} FROM source"  # noqa: S608
            connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, CODEC {codec})")
            contents.append(path.read_bytes())

    def trial(number: int) -> Read:
        source = random.Random(f"typed parquet {number}")
        content = source.choice(contents)
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        start, end = (footer, len(content) - 8) if source.randrange(2) else (4, footer)
        hit = damaged(content[start:end], source)
        if source.randrange(2):  # of the length that the offsets and the last bytes say
            hit = (hit + bytes(end - start))[: end - start]
        path.write_bytes(content[:start] + hit + content[end:])
        table = Source(granularity="tabular", path=path, ids=pd.Index(IDS))
        return lambda: reader.read(table, granularity)[1]

    return trial


def images(make: Callable[[Path], Callable[[random.Random], bytes]], folder: Path) -> Trial:
    """Pictures, read to what a model is given."""
    bytes_of = make(folder)
    path = folder / "picture"

    def trial(number: int) -> Read:
        path.write_bytes(bytes_of(random.Random(f"{folder.name} {number}")))
        return partial(read_picture, path)

    return trial


def read_picture(path: Path, decoder: FrameDecoder = FrameDecoder()) -> list[Finding]:  # noqa: B008
    """A picture as a model is given it, or why not. The decoder ends with this process."""
    try:
        for frame in read_frames(path, 2, decoder):
            assert model_image(frame, _IMAGES).shape == (8, 8)
    except ImageRefusedError as refusal:
        return [error("picture", "a picture", str(refusal), "Export it again.")]
    return []


def png(_: Path) -> Callable[[random.Random], bytes]:
    """Of 8, 16 and 24 bits, and of a palette; damaged chunks have right checksums."""
    rgb = np.stack([ramp()] * 3, axis=-1)
    palette = BytesIO()
    Image.fromarray(rgb).quantize(16).save(palette, "PNG")
    contents = [png_bytes(), png_bytes(ramp(dtype="u2")), png_bytes(rgb), palette.getvalue()]

    def mutant_of(source: random.Random) -> bytes:
        content = source.choice(contents)
        return damaged_png(content, source) if source.randrange(3) else damaged(content, source)

    return mutant_of


def jpeg(_: Path) -> Callable[[random.Random], bytes]:
    """Baseline and progressive, gray, in colors and as for print."""
    contents = [jpeg_bytes(), jpeg_bytes(np.stack([ramp()] * 3, axis=-1))]
    for mode, options in (("L", {"progressive": True}), ("CMYK", {}), ("RGB", {"subsampling": 2})):
        file = BytesIO()
        Image.fromarray(ramp(40, 50)).convert(mode).save(file, "JPEG", **options)
        contents.append(file.getvalue())
    return lambda source: damaged(source.choice(contents), source, header=200)


def dicom(_: Path) -> Callable[[random.Random], bytes]:
    """Uncompressed: single pictures, films and colors."""
    pixels = [ramp(dtype="u2"), np.stack([ramp(dtype="u2")] * 3), ramp(), np.dstack([ramp()] * 3)]
    contents = [dicom_bytes(p, WindowCenter="40", WindowWidth="80") for p in pixels]

    def mutant_of(source: random.Random) -> bytes:
        if source.randrange(2):
            return damaged_dicom(dicom_dataset(source.choice(pixels)), source)
        return damaged(source.choice(contents), source, header=900)

    return mutant_of


def compressed_dicom(folder: Path) -> Callable[[random.Random], bytes]:
    """In the five codecs that GDCM and pydicom decode."""
    contents = [compressed_dicom_bytes(syntax, folder, ramp()) for syntax in COMPRESSED.values()]
    return lambda source: damaged(source.choice(contents), source, header=900)


def nifti(is_gzip: bool, _: Path) -> Callable[[random.Random], bytes]:
    """Both versions; in every other mutant whole fields of the header are absurd."""
    voxels = np.arange(10 * 9 * 5, dtype="i2").reshape(10, 9, 5)

    def mutant_of(source: random.Random) -> bytes:
        version = source.choice([1, 2])
        if source.randrange(2):
            fields = damaged_nifti_fields(source, version=version)
            content = nifti_bytes(voxels, version=version, **fields)
        else:
            whole = nifti_bytes(voxels, version=version)
            content = damaged(whole, source, header=(352, 544)[version - 1])
        if not is_gzip:
            return content
        packed = gzip.compress(content, 1, mtime=0)
        return damaged(packed, source, header=20) if source.randrange(4) == 0 else packed

    return mutant_of


def _counts() -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    return np.arange(len(_NAMES) * NUM_VARIANTS).reshape(len(_NAMES), -1) % 3 * 1.0


def _vcf() -> str:
    genotype = {0.0: "0/0:0.1", 1.0: "0|1:1.0", 2.0: "./.:1.9"}
    records: list[Record] = [
        ("1", str(i), f"rs{i}", "A", "G,T", "GT:DS", [genotype[c] for c in _counts()[:, i]])
        for i in range(NUM_VARIANTS)
    ]
    return vcf_text(_NAMES, records)


def _fasta() -> str:
    return "".join(f">{name} {CANARY}\n{'ACGTTN' * 9}\nacg\n" for name in _NAMES)


def read_markers_of(path: Path) -> list[Finding]:
    source = Source(granularity="genomics", path=path, ids=pd.Index(_NAMES))
    return MARKERS.read(source, _MARKERS)[1]


def read_sequences_of(path: Path) -> list[Finding]:
    source = Source(granularity="dna", path=path, ids=pd.Index(_NAMES))
    return SEQUENCES.read(source, _SEQUENCES)[1]


def lines(
    name: str, text: Callable[[], str], read: Callable[[Path], list[Finding]], folder: Path
) -> Trial:
    """Text of tab-separated lines, plain or gzip."""
    path = folder / name
    whole = text()

    def trial(number: int) -> Read:
        source = random.Random(f"{name} {number}")
        content = whole.encode()
        if source.randrange(2):
            content = damaged_fields(whole, source, "\t").encode()
        else:
            content = damaged(content, source)
        if path.suffix == ".gz":
            content = gzip.compress(content, 1, mtime=0)
            content = damaged(content, source, header=20) if source.randrange(4) == 0 else content
        path.write_bytes(content)
        return partial(read, path)

    return trial


def plink(folder: Path) -> Trial:
    """One of .bed, .bim and .fam is damaged, the others are whole."""
    path = folder / "genomics.bed"
    plink_files(path, _NAMES, [f"1 rs{i} 0 {i} G A" for i in range(NUM_VARIANTS)], _counts())
    suffixes = (".bed", ".bim", ".fam")
    whole = {suffix: path.with_suffix(suffix).read_bytes() for suffix in suffixes}

    def trial(number: int) -> Read:
        source = random.Random(f"plink {number}")
        for suffix, content in whole.items():
            path.with_suffix(suffix).write_bytes(content)
        suffix = source.choice(suffixes)
        content = whole[suffix]
        if suffix != ".bed" and source.randrange(2):
            content = damaged_fields(content.decode(), source, " ").encode()
        else:
            content = damaged(content, source, header=6)
        if suffix == ".bed" and source.randrange(2):
            content = (content + bytes(99))[: len(whole[suffix])]
        path.with_suffix(suffix).write_bytes(content)
        return partial(read_markers_of, path)

    return trial


def site_toml(folder: Path) -> Trial:
    """The site's own settings."""
    site = folder / "site"
    init_site(site, None)
    path = site / "site.toml"
    whole = path.read_text(encoding="utf-8")

    def read() -> list[Finding]:
        load_site_config(site)
        return []

    def trial(number: int) -> Read:
        path.write_bytes(damaged_toml(whole, random.Random(f"site.toml {number}")))
        return read

    return trial


def study_toml(folder: Path) -> Trial:
    """The protocol, as it comes from a colleague."""
    path = folder / "study.toml"
    whole = shipped_text("demo")

    def read() -> list[Finding]:
        load_study(path)
        return []

    def trial(number: int) -> Read:
        path.write_bytes(damaged_toml(whole, random.Random(f"study.toml {number}")))
        return read

    return trial


FORMATS: dict[str, Format] = {
    "csv": partial(tables, ".csv"),
    "csv.gz": partial(tables, ".csv.gz"),
    "parquet": partial(tables, ".parquet"),
    "typed parquet": typed_parquet,
    "png": partial(images, png),
    "jpeg": partial(images, jpeg),
    "dicom": partial(images, dicom),
    "compressed dicom": partial(images, compressed_dicom),
    "nifti": partial(images, partial(nifti, False)),
    "nifti.gz": partial(images, partial(nifti, True)),
    "vcf": partial(lines, "genomics.vcf", _vcf, read_markers_of),
    "vcf.gz": partial(lines, "genomics.vcf.gz", _vcf, read_markers_of),
    "fasta": partial(lines, "dna.fasta", _fasta, read_sequences_of),
    "fasta.gz": partial(lines, "dna.fa.gz", _fasta, read_sequences_of),
    "plink": plink,
    "site.toml": site_toml,
    "study.toml": study_toml,
}
