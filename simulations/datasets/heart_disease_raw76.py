"""Smoking history from the 76-attribute originals of UCI Heart Disease.

The 14-attribute ("processed") files say nothing about smoking. The originals do, and list the
patients of Cleveland and Long Beach in the same order. This module reads the originals and says
which of their records belong to which processed row. It must never guess: a row that the two files
do not agree on keeps an empty history.
"""

from typing import Final

import pandas as pd

NUM_FIELDS: Final = 76
END_OF_RECORD: Final = b"name"
MISSING: Final = -9

SHARED_FIELD_NUMBERS: Final = {
    "age": 3,
    "sex": 4,
    "cp": 9,
    "trestbps": 10,
    "chol": 12,
    "fbs": 16,
    "restecg": 19,
    "thalach": 32,
    "exang": 38,
    "oldpeak": 40,
    "slope": 41,
    "ca": 44,
    "thal": 51,
    "num": 58,
}
"""The 14 attributes that both files hold, by UCI's name and 1-based number."""

SMOKING_FIELD_NUMBERS: Final = {"smoke": 13, "cigs": 14, "years": 15}


def read_raw76(content: bytes) -> pd.DataFrame:
    """Returns the shared and the smoking fields of every record before the first damaged one.

    Guarantees:
        - Row i is the i-th record of the file: reading stops at the first record that has not 76
          fields, because behind it the position no longer says which patient a record is.
        - A field that is missing in the file (-9) is NaN.

    Edge cases:
        | file                                   | result                                     |
        |----------------------------------------|--------------------------------------------|
        | UCI's cleveland.data, binary in places | the 282 records before the damage, not 303 |
        | last record without its final "name"   | that record is not read                    |
        | empty                                  | no rows                                    |

    Args:
        content: the bytes of a raw76 file; fields stand apart by white space and a record ends with
            the word "name".

    Returns:
        One float column for each key of SHARED_FIELD_NUMBERS and SMOKING_FIELD_NUMBERS.

    Source: heart-disease.names, section 7 (UCI).
    """
    fields = SHARED_FIELD_NUMBERS | SMOKING_FIELD_NUMBERS
    rows = []
    record: list[bytes] = []
    for word in content.split():
        record.append(word)
        if word != END_OF_RECORD:
            continue
        if len(record) != NUM_FIELDS:
            break
        rows.append([float(record[number - 1]) for number in fields.values()])
        record = []
    frame = pd.DataFrame(rows, columns=list(fields), dtype="float64")
    return frame.mask(frame == MISSING)


def is_linked(processed: pd.DataFrame, raw76: pd.DataFrame) -> pd.Series:
    """Returns, for each processed row, whether the raw record at its position is the same patient.

    Guarantees:
        - A linked row has the same age, sex and diagnosis in both files, and no attribute among the
          other eleven that both files know and disagree on.

    Edge cases:
        | row                                         | linked |
        |---------------------------------------------|--------|
        | behind the last raw record                  | no     |
        | age, sex or num unknown in one file         | no     |
        | another attribute unknown in one file only  | yes    |

    The last line is needed for eight values of Long Beach (slope, thal) that the processed file
    left out.

    Args:
        processed: rows of a processed file, columns of SHARED_FIELD_NUMBERS, NaN = missing.
        raw76: what read_raw76 returned for the same hospital.

    Returns:
        A boolean for each row of `processed`.
    """
    shared = list(SHARED_FIELD_NUMBERS)
    ours = processed[shared].astype("float64")
    theirs = raw76[shared].reindex(processed.index)
    identity = ["age", "sex", "num"]
    is_same = ours[identity].eq(theirs[identity]).all(axis=1)
    is_contradicted = (ours.notna() & theirs.notna() & ours.ne(theirs)).any(axis=1)
    return is_same & ~is_contradicted


def smoking_history(processed: pd.DataFrame, raw76: pd.DataFrame) -> pd.DataFrame:
    """Returns smoke (1/0), cigs and years for each processed row; NaN where unlinked or unknown.

    `smoke` says "ever smoked", which is what both hospitals know: yes with any cigarettes a day,
    years of smoking, or a yes in the file's own field; no with 0 cigarettes a day. The file's own
    field asks something else (Cleveland never filled it in, and at Long Beach 52 patients who once
    smoked answer no), so its no alone leaves the question open.

    Args:
        processed: rows of a processed file, columns of SHARED_FIELD_NUMBERS, NaN = missing.
        raw76: what read_raw76 returned for the same hospital.

    Returns:
        Float columns smoke, cigs and years, indexed as `processed`.
    """
    known = raw76[list(SMOKING_FIELD_NUMBERS)].reindex(processed.index)
    linked = known.where(is_linked(processed, raw76))
    has_smoked = linked["cigs"].gt(0) | linked["years"].gt(0) | linked["smoke"].eq(1)
    is_known = has_smoked | linked["cigs"].eq(0)
    return linked.assign(smoke=has_smoked.astype("float64").where(is_known))
