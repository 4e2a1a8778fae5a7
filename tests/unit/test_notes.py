"""The reader of notes: tokens by hand, the order of notes, and what becomes of identifiers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.findings import Finding
from client.sources import table_cells
from client.sources.notes import NOTES, absent_notes, token_codes
from client.sources.source import Identifiers, Source
from client.sources.vocabulary import vocabulary_of, words_of
from common.errors import DataError
from common.granularities import NotesGranularity

# Codes by hand: 1 unknown, then the words in this order from 2.
WORDS = ("pain", "fever", "no", "120", "80", "deceased")
KNOWN = NotesGranularity.model_validate(
    {"kind": "notes", "max_tokens": 6, "vocabulary": WORDS, "masked_words": ["deceased"]}
)
HASHED = NotesGranularity.model_validate({"kind": "notes", "max_tokens": 6, "num_buckets": 1000})
PAIN, FEVER, NO = 2, 3, 4
IDS = ["a", "b", "c"]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "notes.csv"


def notes(
    csv: Path,
    content: str,
    granularity: NotesGranularity = KNOWN,
    identifiers: Identifiers = "mask",
) -> tuple[dict, list[Finding]]:
    csv.write_text(content, encoding="utf-8")
    source = Source(granularity="notes", path=csv, ids=pd.Index(IDS), identifiers=identifiers)
    return NOTES.read(source, granularity)


def tokens(csv: Path, content: str, granularity: NotesGranularity = KNOWN) -> list[list[int]]:
    arrays, findings = notes(csv, content, granularity)
    assert findings == []
    return arrays["tokens_BT"].tolist()


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.found) for f in findings]


def test_words_become_codes_left_aligned_and_padded_with_zero(csv: Path) -> None:
    arrays, findings = notes(csv, 'patient_id,text\nb,"No FEVER, BP 120/80"\nc,Pain.\n')
    assert findings == []
    assert arrays["tokens_BT"].tolist() == [[0] * 6, [NO, FEVER, 1, 5, 6, 0], [PAIN, 0, 0, 0, 0, 0]]
    assert arrays["tokens_BT"].dtype == np.int64
    assert arrays["present_B"].tolist() == [False, True, True]


def test_notes_are_joined_in_the_order_of_minutes_and_of_the_file_within_a_minute(
    csv: Path,
) -> None:
    content = "patient_id,minutes,text\na,60,fever\nb,0,no\na,5,pain\na,60,120\na,5.0,80\n"
    assert tokens(csv, content)[0] == [PAIN, 6, FEVER, 5, 0, 0]


def test_without_minutes_notes_are_joined_in_the_order_of_the_file(csv: Path) -> None:
    assert tokens(csv, "patient_id,text\na,fever\nb,no\na,pain\n")[0][:2] == [FEVER, PAIN]


def test_notes_without_a_time_come_last_in_the_order_of_the_file_and_are_counted(
    csv: Path,
) -> None:
    content = "patient_id,minutes,text\na,,fever\na,9,pain\na,NA,120\na,-9,no\n"
    arrays, findings = notes(csv, content)
    assert arrays["tokens_BT"][0].tolist() == [NO, PAIN, FEVER, 5, 0, 0]
    assert told(findings) == [("warning", "2 notes without one")]


def test_the_first_tokens_are_kept_and_who_has_more_is_counted(csv: Path) -> None:
    content = "patient_id,minutes,text\na,9,pain pain pain\na,1,fever no no no\nb,1," + "no " * 6
    arrays, findings = notes(csv, content)
    assert arrays["tokens_BT"][0].tolist() == [FEVER, NO, NO, NO, PAIN, PAIN]
    assert told(findings) == [("warning", "1 of 2 patients with more")]


def test_more_notes_than_are_kept_at_a_time_give_the_first_tokens(csv: Path) -> None:
    # 300 notes from the last to the first: the words of the earliest three minutes remain.
    rows = "".join(f"a,{300 - i},{'pain fever' if i >= 297 else 'no no'}\n" for i in range(300))
    arrays, _ = notes(csv, "patient_id,minutes,text\n" + rows)
    assert arrays["tokens_BT"][0].tolist() == [PAIN, FEVER] * 3


def test_a_masked_word_is_unknown_and_leaves_its_place(csv: Path) -> None:
    assert tokens(csv, "patient_id,text\na,no Deceased pain\n")[0][:4] == [NO, 1, PAIN, 0]
    masked = HASHED.model_copy(update={"masked_words": ("deceased",)})
    assert tokens(csv, "patient_id,text\na,no Deceased pain\n", masked)[0][1] == 1


def test_a_patient_is_present_whose_notes_have_a_token_known_or_not(csv: Path) -> None:
    arrays, _ = notes(csv, "patient_id,text\na,unheard-of\nb,...!?\nc,\n")
    assert arrays["present_B"].tolist() == [True, False, False]
    assert arrays["tokens_BT"][0].tolist() == [1, 1, 0, 0, 0, 0]


def test_notes_outside_of_the_window_change_nothing(csv: Path) -> None:
    window = KNOWN.model_copy(update={"start_minutes": 0.0, "end_minutes": 60.0})
    content = "patient_id,minutes,text\na,-1,no\na,0,pain\na,59.9,fever\na,60,no\nb,99,no\n"
    arrays, findings = notes(csv, content, window)
    assert findings == []
    assert arrays["tokens_BT"][0].tolist() == [PAIN, FEVER, 0, 0, 0, 0]
    assert arrays["present_B"].tolist() == [True, False, False]


def test_notes_that_are_all_outside_of_the_window_are_told(csv: Path) -> None:
    window = KNOWN.model_copy(update={"end_minutes": 60.0})
    _, findings = notes(csv, "patient_id,minutes,text\na,60,no\nb,99,no\n", window)
    assert told(findings) == [("warning", "all 2 rows outside")]


def test_notes_of_no_known_time_are_told_where_the_study_has_a_window(csv: Path) -> None:
    window = KNOWN.model_copy(update={"end_minutes": 60.0})
    arrays, findings = notes(csv, "patient_id,text\na,no\nx,no\n", window)
    assert arrays["present_B"].tolist() == [True, False, False]
    assert ("warning", "1 notes without one") in told(findings)


def test_text_for_a_time_and_an_infinite_time_are_errors(csv: Path) -> None:
    _, findings = notes(csv, "patient_id,minutes,text\na,noon,no\na,inf,no\na,1,no\nx,noon,no\n")
    errors = [f.found for f in findings if f.severity == "error"]
    assert errors == ["1 cells of text", "1 infinite values"]


def test_notes_of_strangers_are_counted_and_not_used(csv: Path) -> None:
    arrays, findings = notes(csv, "patient_id,text\nx,Mr. Smith no\na,no\n,no\n")
    assert told(findings) == [("warning", "2 of 3 rows of nobody in the patients' table")]
    assert arrays["present_B"].tolist() == [True, False, False]


@pytest.mark.parametrize("column", ["patient_id", "text"])
def test_a_missing_column_is_an_error(csv: Path, column: str) -> None:
    _, findings = notes(csv, "patient_id,text\na,no\n".replace(column, "other"))
    assert told(findings) == [("error", f"no column {column}")]


def test_an_identifier_is_one_unknown_word_and_counted(csv: Path) -> None:
    content = 'patient_id,text\na,"pain Mr. John Smith, fever 03/14/1957"\nb,no\n'
    arrays, findings = notes(csv, content)
    assert arrays["tokens_BT"][0].tolist() == [PAIN, 1, FEVER, 1, 0, 0]
    assert told(findings) == [("warning", "2 names, dates or numbers in 2 notes")]


def test_an_identifier_is_an_error_where_the_site_refuses_them(csv: Path) -> None:
    content = 'patient_id,text\na,"pain Mr. John Smith, fever 03/14/1957"\nb,no\n'
    _, findings = notes(csv, content, identifiers="refuse")
    assert told(findings) == [("error", "2 names, dates or numbers in 2 notes")]
    _, findings = notes(csv, "patient_id,text\na,pain 120/80\n", identifiers="refuse")
    assert findings == []


def test_what_is_masked_has_the_same_codes_whoever_it_was(csv: Path) -> None:
    one, _ = notes(csv, "patient_id,text\na,Mr. Smith MRN 123456 pain\n", HASHED)
    two, _ = notes(csv, "patient_id,text\na,Dr. Jones MRN 987654 pain\n", HASHED)
    assert np.array_equal(one["tokens_BT"], two["tokens_BT"])


def test_codes_are_below_the_number_that_the_study_tells(csv: Path) -> None:
    for granularity in (KNOWN, HASHED):
        text = " ".join(f"word{i}" for i in range(6)) + "\n"
        arrays, _ = notes(csv, f"patient_id,text\na,{text}b,no pain deceased\n", granularity)
        assert arrays["tokens_BT"].max() < granularity.num_codes


def test_hashes_spread_words_over_all_buckets() -> None:
    few = HASHED.model_copy(update={"num_buckets": 8})
    code_of = token_codes(few)
    counts = np.bincount([code_of(f"word{i}") for i in range(8000)], minlength=10)
    assert counts[:2].tolist() == [0, 0]
    # 1000 expected of each; the standard deviation is (8000 · 1/8 · 7/8)^.5 = 29.6.
    assert (np.abs(counts[2:] - 1000) < 150).all()


def test_a_words_code_is_the_same_in_every_process() -> None:
    code = (
        "from common.granularities import NotesGranularity as N\n"
        "from client.sources.notes import token_codes\n"
        "code_of = token_codes(N(kind='notes', num_buckets=1000))\n"
        "print(code_of('pain'), code_of('fever'))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
    ).stdout
    code_of = token_codes(HASHED)
    assert printed.split() == [str(code_of("pain")), str(code_of("fever"))]


# Words that NFKC and folding make one.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Müller", ["müller"]),
        ("Mu\u0308ller", ["müller"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("ﬁbrillation", ["fibrillation"]),
        ("x_y-z'w", ["x", "y", "z", "w"]),
        ("１２ mg", ["12", "mg"]),
        ("心房細動", ["心房細動"]),
        ("\ufffc a\ufffcb", ["\ufffc", "a", "\ufffc", "b"]),
        ("", []),
    ],
)
def test_words_are_folded_runs_of_letters_and_digits(text: str, words: list[str]) -> None:
    assert list(words_of(text)) == words


rows_of_notes = st.lists(
    st.tuples(
        st.sampled_from([*IDS, "x"]),
        st.integers(0, 3),
        st.lists(st.sampled_from(["pain", "fever", "no", "other", "."]), max_size=5).map(" ".join),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(rows=rows_of_notes, size=st.integers(1, 4))
def test_tokens_are_those_of_a_sorted_list_wherever_a_chunk_ends(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]], size: int
) -> None:
    content = "patient_id,minutes,text\n" + "".join(f"{i},{m},{t}\n" for i, m, t in rows)
    code = {"pain": PAIN, "fever": FEVER, "no": NO, "other": 1}
    expected = []
    for patient in IDS:
        ordered = sorted((row for row in rows if row[0] == patient), key=lambda row: row[1])
        codes = [code[word] for _, _, text in ordered for word in text.split() if word != "."]
        expected.append((codes + [0] * 6)[:6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_cells, "CHUNK_ROWS", size)
        arrays, _ = notes(tmp_path_factory.getbasetemp() / "any.csv", content)
    assert arrays["tokens_BT"].tolist() == expected


def test_absent_notes_have_the_shapes_of_present_ones_and_nobody(csv: Path) -> None:
    present, _ = notes(csv, "patient_id,text\na,no\n")
    absent = absent_notes(KNOWN, 3)
    assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
        k: (v.shape, v.dtype) for k, v in present.items()
    }
    assert not any(value.any() for value in absent.values())


def test_a_vocabulary_is_the_most_frequent_words_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "public.txt"
    path.write_text("Pain, pain and fever.\nFever and PAIN; once. Müller Müller b b a a\n")
    # pain 3; a, and, b, fever 2 each, by the alphabet; once 1; müller is not of a to z.
    assert vocabulary_of(path, 4) == ["pain", "a", "and", "b"]
    assert vocabulary_of(path, 99) == ["pain", "a", "and", "b", "fever"]
    assert vocabulary_of(path, 99, min_count=1)[-1] == "once"
    study = KNOWN.model_dump() | {"vocabulary": vocabulary_of(path, 4)}
    assert NotesGranularity.model_validate(study).num_codes == 6


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"once only", "Müller Müller".encode()])
def test_a_text_without_a_vocabulary_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "public.txt"
    path.write_bytes(content)
    with pytest.raises(DataError):
        vocabulary_of(path, 4)
    with pytest.raises(DataError, match="FileNotFoundError"):
        vocabulary_of(tmp_path / "none.txt", 4)


def test_a_file_of_strangers_alone_is_an_error(csv: Path) -> None:
    _, findings = notes(csv, "patient_id,text\nx,no\ny,no\n")
    assert ("error", "none: all 2 rows are of others") in told(findings)
