"""Direct identifiers: what is recognised, what is not, and that no text takes long."""

import re
import unicodedata
from re import _parser  # type: ignore[attr-defined]

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sources.identifiers import (
    PATTERNS,
    column_findings,
    identifier_columns,
    mask_identifiers,
)
from client.sources.vocabulary import MASKED

TELLING = """
    name Name NAME surname last_name LastName maiden_name patient_name PatientName full_name
    initials mrn MRN medical_record_number record_no chart_number fallnummer birth_date dob DOB
    DateOfBirth date_of_birth Geburtsdatum Geb.-Datum phone phone_number PhoneNumber telephone tel
    email e_mail E-Mail address street_address home_address SSN social_security_number
    insurance_number insurance_id nhs_number zip zip_code postal_code plz Wohnort Straße Nachname
    patnr PatNr pid PID hospital_number case_id pat_name birth_year YearOfBirth
    Vorname Telefon Telefonnummer Adresse versichertennummer KVNR
"""
HARMLESS = """
    patient_id minutes signal value text file split age_years sex heart_rate birth_weight
    drug_name hospital_name rename namely cell_count mobile_xray zipper number_of_births stage
    admission_date ph telemetry name_of_drug phonation health_status no_of_beds security insurance
    patients
"""


@pytest.mark.parametrize("column", TELLING.split())
def test_a_column_of_this_name_looks_like_an_identifier(column: str) -> None:
    assert identifier_columns([column]) == [column]


@pytest.mark.parametrize("column", HARMLESS.split())
def test_a_column_of_this_name_does_not(column: str) -> None:
    assert identifier_columns([column]) == []


def test_columns_are_told_by_place_and_kind_and_never_by_name() -> None:
    header = ["patient_id", "Jane Surname", "zip", "age_years", "phone 0511 1234"]
    (finding,) = column_findings(header, exempt=[], file="labs.csv", identifiers="mask")
    assert finding.severity == "warning"
    assert finding.found == "column 2 (name), column 3 (address), column 5 (phone)"
    (finding,) = column_findings(header, exempt=[], file="labs.csv", identifiers="refuse")
    assert finding.severity == "error"


def test_a_column_that_the_study_reads_is_exempt() -> None:
    header = ["patient_id", "zip"]
    assert column_findings(header, exempt=["zip"], file="a.csv", identifiers="refuse") == []


IDENTIFIERS = [
    "555-123-4567", "(555) 123-4567", "+1 555 123 4567", "555.123.4567", "+49 511 123456",
    "+49 (0)511 123456", "+44 20 7946 0958", "0511/5321234", "0171 1234567",
    "Phone: 5551234567", "Telefon 0511 532 1234", "Fax 0511-532 0", "pager 123456",
    "jane.doe@hospital.org", "J_D+x@a-b.co.uk",
    "03/14/1957", "14.03.1957", "1957-03-14", "March 14, 1957", "14 March 1957", "14. März 1957",
    "14-Mar-1957", "3/14/57", "12.03.14", "DOB 19570314", "Geburtsdatum: 14.3.57",
    "MRN 123456", "MRN: A1234567", "Medical record number 00-12-34", "record no. 12345",
    "SSN 123-45-6789", "123-45-6789", "Fallnummer: 00123456", "A123456789",
    "NHS number 943 476 5919", "insurance id: XK-123456", "Patient ID 4711",
    "Mr. Smith", "Mr Smith", "Dr. Jones", "Mrs O'Brien", "Dr. van der Berg", "Herr Müller",
    "Frau Dr. Schmidt-Lange", "Prof. Dr. med. Weber", "MR. SMITH", "Ms. Anna K. Lee",
    "Dr. J. Smith", "Dr.Smith", "Mr.  Smith", "Prof.Dr.Weber", "MRN:\t123456",
    "MR SMITH", "MRS O'BRIEN", "DR SMITH", "dr. smith", "mr. o'brien", "mrs. lee",
    "prof. weber", "Pt: John Smith", "pt: John Smith", "ＭＲＮ １２３４５６", "Ｍｒ． Ｓｍｉｔｈ",
    "Hr. Özdemir", "Mr. Ёлкин", "Patient name: Jane Doe", "Nachname: Meier",
]  # fmt: skip


@pytest.mark.parametrize("identifier", IDENTIFIERS)
@pytest.mark.parametrize("text", ["{}", "seen with {}, stable.", "bp 120/80 ({}) and\nno pain"])
def test_this_is_masked_and_what_stands_around_it_is_not(identifier: str, text: str) -> None:
    masked, num_masked = mask_identifiers(text.format(identifier))
    assert num_masked >= 1
    before, after = text.split("{}")
    assert masked.startswith(before)
    assert masked.endswith(after)
    # Nothing of three letters or digits is left of it, but for the word that gave it away.
    left = re.findall(r"\w{3,}", masked[len(before) : len(masked) - len(after)])
    cues = {"DOB", "Geburtsdatum"}
    assert set(left) <= cues


@pytest.mark.parametrize(
    "text", ["Name: Smith, John", "ward 3\nName: Jane Doe", "Patient: Jane Doe"]
)
def test_a_name_after_a_label_at_the_start_of_a_line_is_masked(text: str) -> None:
    masked, num_masked = mask_identifiers(text)
    assert num_masked == 1
    assert not {"Smith", "John", "Jane", "Doe"} & set(re.findall(r"\w+", masked))


@pytest.mark.parametrize(
    "text",
    [
        "bp 120/80", "3.5 mg", "type 2 diabetes", "T2DM, HbA1c 7.5 %", "metoprolol 12.5 mg 1-0-1",
        "Na 140 K 4.1 Cl 102", "SpO2 98 %", "GCS 15 (4/5/6)", "MR Brain without contrast",
        "MS Contin 15 mg", "5/5 strength", "pain 7/10", "100-200 mg/dl", "200-1000 mg",
        "ph 7.35 pco2 45 po2 98", "APACHE IV 55", "temp 37.5", "hr 80-100", "2 x 3 x 4 cm",
        "ICD 410.71", "I21.4", "day 3 of 10", "500 ml at 125 ml/hr", "+2 edema",
        "+1 120/80 98 16", "WBC 12,300", "1:1000 epinephrine 0.3", "EF 55-60%", "FiO2 0.4", "L4-L5",
        "0.9 % NaCl 1000 ml", "heparin 5000 units", "Fr 14 catheter", "14 FR. Catheter",
        "HR. Regular", "MR BRAIN WITHOUT CONTRAST", "mild mr. no as", "trace mr. lv normal",
        "dr. notified", "PT: INR 2.5", "Pt: alert", "DR 4", "x² + ½", "dr recommended rest",
        "may repeat in 2 weeks", "mar 10 mg", "records reviewed", "phone consent obtained",
        "history of 3 falls in 2014", "platelets 250 000", "creatinine 1.2 (0.6-1.2)",
        "Patient is stable", "Patient: Alert and oriented", "name of drug: Aspirin",
        "drug name: Aspirin", "120/80/12", "12/14", "@ 5 l/min", "q4h x3", "2014-15 season",
        "cardiovascular|shock / hypotension|septic shock",
    ],
)  # fmt: skip
def test_clinical_text_is_left_as_it_is(text: str) -> None:
    assert mask_identifiers(text) == (text, 0)
    sentence = f"yesterday {text}, then rest"
    assert mask_identifiers(sentence) == (sentence, 0)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80) | st.text("Dr. MAab1230/-+@:\n", max_size=80))
def test_a_text_is_as_it_was_but_for_what_is_masked(text: str) -> None:
    masked, num_masked = mask_identifiers(text)
    assert (masked == text) == (num_masked == 0)
    # What is left stands in the text, in the same order.
    rest = iter(unicodedata.normalize("NFKC", text) if num_masked else text)
    assert all(letter in rest for letter in masked if letter != MASKED)


# Finite, and so without a repetition that has no bound; that none of them can be read in many ways
# is what the long texts below are for.
@pytest.mark.parametrize("pattern", PATTERNS, ids=range(len(PATTERNS)))
def test_every_pattern_reads_a_bounded_number_of_characters_from_each_place(
    pattern: re.Pattern[str],
) -> None:
    parsed = _parser.parse(pattern.pattern, pattern.flags)
    assert parsed.getwidth()[1] < 1000


SLOW_UNITS = [
    "a", "1", "1-", "a.", "A ", "a@", "\n", " ", "Dr. ", "mrn ", "+22 1", "tel. 1 ", "a@a.", "1/1/",
    "Name: A ", "jan. 1 ", "Dr. van de der ", "Tel. 1 ()", "A. B. ", "Mr. A. ", "Dr. A'",
    "MR A", "dr. a", "Pt: A ", "mr. ", "ﷺ",
]  # fmt: skip


# 200,000 characters each: what is quadratic in them would take hours.
@pytest.mark.parametrize("unit", SLOW_UNITS)
def test_a_long_text_made_to_be_slow_is_read_all_the_same(unit: str) -> None:
    text = (unit * 200_000)[:200_000]
    assert len(mask_identifiers(text)[0]) <= len(text)
