"""Damaged tables: every mutant is an answer of findings, without an exception or a patient's value.

Each file is planted with canaries: ids, words and numbers that stand nowhere else. A mutant is made
from a seed, so that one that fails can be made again.
"""

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from client.sources.notes import NOTES
from client.sources.series import SERIES
from client.sources.source import Reader, Source
from client.sources.tables import TABULAR
from common.granularities import NotesGranularity, SeriesGranularity, TabularGranularity

# Of each of the three readers; a Parquet file is opened by a database of its own, in 30 ms.
NUM_MUTANTS = {".csv": 200, ".csv.gz": 70, ".parquet": 70}
NUM_ROWS = 24
IDS = [f"canaryid{i:03d}" for i in range(8)]
NUMBERS = [f"{50 + i}.90731" for i in range(NUM_ROWS)]
WORDS = [f"canaryword{i:03d}" for i in range(NUM_ROWS)]
CANARIES = ("canary", "90731", "canäry")

Case = tuple[Reader[Any], Any, pd.DataFrame]


def tabular() -> Case:
    features = {
        "age_years": {"kind": "numeric", "unit": "years", "range": [0, 100]},
        "stage": {"kind": "categorical", "categories": WORDS[:3]},
    }
    granularity = TabularGranularity.model_validate(
        {"kind": "tabular", "max_unusable_fraction": 0.9, "features": features}
    )
    table = {
        "patient_id": IDS,
        "age_years": NUMBERS[:8],
        "stage": [WORDS[i % 4] for i in range(8)],
        "name": ["Mr. Canäry"] * 8,
    }
    return TABULAR, granularity, pd.DataFrame(table, dtype="object")


def series() -> Case:
    signals = {"heart_rate": {"kind": "numeric", "unit": "bpm", "range": [20, 60]}}
    granularity = SeriesGranularity.model_validate(
        {"kind": "series", "max_unusable_fraction": 0.9, "signals": signals}
    )
    table = {
        "patient_id": [IDS[i % 8] for i in range(NUM_ROWS)],
        "minutes": [f"{i * 70}.90731" for i in range(NUM_ROWS)],
        "signal": ["heart_rate" if i % 5 else WORDS[i] for i in range(NUM_ROWS)],
        "value": NUMBERS,
    }
    return SERIES, granularity, pd.DataFrame(table, dtype="object")


def notes() -> Case:
    granularity = NotesGranularity.model_validate({"kind": "notes", "max_tokens": 8})
    table = {
        "patient_id": [IDS[i % 8] for i in range(NUM_ROWS)],
        "minutes": [f"{i * 70}.90731" for i in range(NUM_ROWS)],
        "text": [f'"{word}", Mr. Canäry, MRN 90731{i:03d}' for i, word in enumerate(WORDS)],
    }
    return NOTES, granularity, pd.DataFrame(table, dtype="object")


CASES: dict[str, Callable[[], Case]] = {"tabular": tabular, "series": series, "notes": notes}


def mutant_of_bytes(content: bytes, seed: random.Random) -> bytes:
    """Bytes flipped, cut, zeroed, moved, repeated, or all of it something else."""
    data = bytearray(content)
    start, end = sorted(seed.randrange(len(data) + 1) for _ in range(2))
    match seed.randrange(8):
        case 0 | 1:
            for _ in range(seed.choice([1, 1, 3, 30])):
                data[seed.randrange(len(data))] ^= 1 << seed.randrange(8)
        case 2:
            del data[start:]
        case 3:
            data[start : start + 20] = bytes(20)
        case 4:
            data = data[:start] + data[end:] + data[start:end]
        case 5:
            data[start:start] = data[start:end]
        case 6:
            for _ in range(5):  # near the end, where Parquet keeps its footer
                data[-1 - seed.randrange(min(len(data), 400))] = seed.randrange(256)
        case _:
            data = bytearray(seed.choice([b"", b"\n", b"PAR1", b"PAR1PAR1", seed.randbytes(300)]))
    return bytes(data)


def mutant_of_text(content: bytes, seed: random.Random) -> bytes:
    """What people and programs do to a CSV file."""
    text = content.decode()
    lines = text.splitlines(keepends=True)
    place = seed.randrange(len(text))
    match seed.randrange(14):
        case 0:
            first, second = (seed.randrange(len(lines)) for _ in range(2))
            lines[first], lines[second] = lines[second], lines[first]
            return "".join(lines).encode()
        case 1:
            del lines[seed.randrange(len(lines))]
            return "".join(lines).encode()
        case 2:
            lines.insert(seed.randrange(len(lines)), seed.choice(lines))
            return "".join(lines).encode()
        case 3:
            return text.encode(seed.choice(["latin-1", "utf-16", "utf-16-le", "utf-32", "cp500"]))
        case 4:
            return (text[:place] + "\x00" * seed.choice([1, 9]) + text[place:]).encode()
        case 5:
            return (text[:place] + seed.choice(['"', "'", '""', '"\n']) + text[place:]).encode()
        case 6:
            return (text[:place] + "x" * seed.choice([20_000, 200_000]) + text[place:]).encode()
        case 7:
            return text.replace(",", seed.choice([";", "\t", "|", ",,", " "])).encode()
        case 8:
            return b"\xef\xbb\xbf" * seed.choice([1, 2]) + content
        case 9:
            return text.replace(
                "\n", seed.choice(["\r\n", "\r", "\n\n", "\n\r", "\u2028"])
            ).encode()
        case 10:
            other = seed.choice(["1e999", "-inf", "NaN", "0x1F", "1,5", "\u0663", "\ud83d\ude00"])
            return text.replace(seed.choice(["90731", "heart_rate"]), other, 3).encode(
                "utf-8", "surrogatepass"
            )
        case 11:
            return text.replace(seed.choice(IDS), seed.choice(["", " ", IDS[0], "NA"])).encode()
        case 12:
            return lines[0].encode() + content[len(lines[0]) :] * seed.choice([0, 40])
        case _:
            return mutant_of_bytes(content, seed)


def mutant(content: bytes, suffix: str, seed: random.Random) -> bytes:
    if suffix == ".csv":
        return mutant_of_text(content, seed)
    if suffix == ".csv.gz" and seed.randrange(2):
        return gzip.compress(mutant_of_text(gzip.decompress(content), seed), 1, mtime=0)
    return mutant_of_bytes(content, seed)


def write(table: pd.DataFrame, path: Path) -> bytes:
    if path.suffix == ".parquet":
        with duckdb.connect(":memory:") as connection:
            connection.register("source", table)
            connection.execute(f"COPY source TO '{path}' (FORMAT parquet)")
    else:
        table.to_csv(path, index=False)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("case", list(CASES))
def test_no_mutant_raises_prints_or_tells_a_value(
    case: str, suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, granularity, table = CASES[case]()
    path = tmp_path / f"table{suffix}"
    content = write(table, path)
    source = Source(granularity=case, path=path, ids=pd.Index(IDS))
    whole, findings = reader.read(source, granularity)
    assert whole["present_B"].all()
    assert not any(f.severity == "error" for f in findings)
    num_mutants = NUM_MUTANTS[suffix]
    num_errors = num_like_before = 0
    for i in range(num_mutants):
        path.write_bytes(mutant(content, suffix, random.Random(f"{case} {suffix} {i}")))
        arrays, findings = reader.read(source, granularity)
        told = "\n".join(f.sentence() for f in findings).casefold()
        assert not [canary for canary in CANARIES if canary in told], i
        assert {k: (v.shape, v.dtype) for k, v in arrays.items()} == {
            k: (v.shape, v.dtype) for k, v in whole.items()
        }, i
        num_errors += any(f.severity == "error" for f in findings)
        num_like_before += all(np.array_equal(arrays[key], whole[key]) for key in whole)
    # The mutants are of both sorts: files that are refused, and files that are read in part.
    assert num_errors >= num_mutants // 5
    assert num_like_before < num_mutants // 2
    assert capfd.readouterr() == ("", "")
