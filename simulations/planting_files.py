"""Canaries in files that are no tables: in headers of images and genotypes, and in FASTA."""

import gzip
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from simulations.canaries import Canaries

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = len(_PNG) + 25  # with the chunk IHDR, which comes first
_JPEG = b"\xff\xd8"
_GZIP = b"\x1f\x8b"
_DESCRIPTIONS = {348: 148, 540: 240}  # where a NIfTI header of this size has 80 bytes of text
_PREAMBLE_BYTES = 128  # of DICOM, before its four letters
_DICOM_TAGS = ("PatientName", "PatientID", "PatientComments", "StudyDescription", "AccessionNumber")


def plant_image(source: Path, target: Path, canaries: Canaries) -> None:
    """Copies an image with words in its header; a file of another kind is copied as it is."""
    content = source.read_bytes()
    where = f"the header of an image ({''.join(source.suffixes[-2:]).lower()})"

    def word() -> str:
        return canaries.word(where)

    if content.startswith(_PNG):
        target.write_bytes(_png(content, word))
    elif content.startswith(_JPEG):
        target.write_bytes(_jpeg(content, word))
    elif content[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM" and _dicom(source, target, word):
        return
    elif (planted := _nifti(content, word)) is not None:
        target.write_bytes(planted)
    else:
        shutil.copyfile(source, target)


def _png(content: bytes, word: Callable[[], str]) -> bytes:
    """With a chunk of text behind the header."""
    body = b"tEXtDescription\0" + word().encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return content[:_PNG_HEADER_BYTES] + chunk + content[_PNG_HEADER_BYTES:]


def _jpeg(content: bytes, word: Callable[[], str]) -> bytes:
    """With a comment at the beginning."""
    body = word().encode()
    comment = b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body
    return content[:2] + comment + content[2:]


def _dicom(source: Path, target: Path, word: Callable[[], str]) -> bool:
    """Writes it with words for the patient; False where that cannot be done."""
    try:
        import pydicom
    except ImportError:
        return False
    try:
        data = pydicom.dcmread(source)
        for tag in _DICOM_TAGS:
            setattr(data, tag, word())
        data.save_as(target)
    except Exception:  # noqa: BLE001  # a damaged file raises anything; it is copied as it is
        return False
    return True


def _nifti(content: bytes, word: Callable[[], str]) -> bytes | None:
    """With another description; None where it is no NIfTI file."""
    is_packed = content.startswith(_GZIP)
    try:
        plain = bytearray(gzip.decompress(content) if is_packed else content)
    except (OSError, EOFError, zlib.error):
        return None
    sizes = {int.from_bytes(plain[:4], order) for order in ("little", "big")}
    place = next((at for size, at in _DESCRIPTIONS.items() if size in sizes), None)
    if place is None or len(plain) < place + 80:
        return None
    plain[place : place + 80] = word().encode().ljust(80, b"\0")
    return gzip.compress(plain) if is_packed else bytes(plain)


def plant_lines(source: Path, target: Path, ids: Mapping[str, str], canaries: Canaries) -> None:
    """Copies a VCF or FASTA file with words for ids; a sequence gets a description as well.

    Samples of patients who have no word keep their names, and are nobody's in the copy.
    """
    is_packed = source.name.lower().endswith(".gz")
    content = gzip.decompress(source.read_bytes()) if is_packed else source.read_bytes()
    words = {old.encode(): new.encode() for old, new in ids.items()}
    lines = content.split(b"\n")
    for place, line in enumerate(lines):
        if line.startswith(b"#CHROM"):
            cells = line.rstrip(b"\r").split(b"\t")
            lines[place] = b"\t".join(words.get(cell, cell) for cell in cells)
        elif line.startswith(b">"):
            first, *others = line[1:].split() or [b""]
            word = canaries.word(f"{source.name}, a description").encode()
            lines[place] = b">" + b" ".join([words.get(first, first), *others, word])
    planted = b"\n".join(lines)
    target.write_bytes(gzip.compress(planted) if is_packed else planted)


def plant_plink(source: Path, target: Path, ids: Mapping[str, str]) -> None:
    """Copies a .bed file with its .bim and .fam, in which words stand for ids."""
    for suffix in (".bed", ".bim"):
        if source.with_suffix(suffix).is_file():
            shutil.copyfile(source.with_suffix(suffix), target.with_suffix(suffix))
    fam = source.with_suffix(".fam")
    rows = fam.read_text(encoding="utf-8", errors="replace").splitlines() if fam.is_file() else []
    named = []
    for row in rows:
        cells = row.split()
        cells[1:2] = [ids.get(cell, cell) for cell in cells[1:2]]
        named.append("\t".join(cells) + "\n")
    target.with_suffix(".fam").write_text("".join(named), encoding="utf-8")
