"""Direct identifiers on the way in: columns and texts that say who a patient is.

A net, not a proof: it finds what is written in the usual ways in English and German. It must never
repeat what it found: a header cell can be the first patient's name where a file has no header.

Every pattern reads a bounded number of characters from each place of a text, without a repetition
inside of an unbounded one, so that no text takes more than linear time.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from itertools import pairwise

from client.findings import Finding, error, warning
from client.sources.source import Identifiers
from client.sources.vocabulary import MASKED

# Parts of a column's name that tell an identifier wherever they stand in it.
_TELLING_PARTS = {
    "name": {
        "surname", "lastname", "firstname", "forename", "fullname", "givenname", "familyname",
        "nachname", "vorname", "familienname", "geburtsname", "patientname", "patientenname",
        "patname",
    },
    "record number": {
        "mrn", "fallnummer", "fallnr", "patientennummer", "patientennr", "aktenzeichen", "patnr",
        "patno", "caseid", "casenumber", "caseno", "hospitalnumber", "hospitalno",
    },
    "birth date": {
        "dob", "birthdate", "birthday", "dateofbirth", "birthyear", "yearofbirth", "geburtsdatum",
        "geburtstag", "gebdat", "gebdatum",
    },
    "phone": {
        "phone", "telephone", "cellphone", "fax", "telefon", "telefonnummer", "telefonnr", "handy",
        "handynummer", "mobilnummer", "faxnummer",
    },
    "email": {"email", "mailaddress", "emailadresse", "mailadresse"},
    "address": {
        "address", "street", "zip", "zipcode", "postcode", "postalcode", "adresse", "anschrift",
        "strasse", "hausnummer", "plz", "postleitzahl", "wohnort",
    },
    "insurance or social security number": {
        "ssn", "versichertennummer", "versichertennr", "krankenversichertennummer", "kvnr",
        "versicherungsnummer", "versicherungsnr", "sozialversicherungsnummer",
        "krankenkassennummer",
    },
}  # fmt: skip
# Words that tell only side by side: of each pair, one of the first and then one of the second.
_TELLING_PAIRS = {
    "name": (
        {"patient", "patients", "first", "last", "full", "given", "family", "middle", "maiden",
         "birth", "mother", "father", "contact", "kin", "spouse"},
        {"name", "names"},
    ),
    "record number": (
        {"record", "chart", "account", "passport", "license", "licence"},
        {"number", "num", "no", "nr"},
    ),
    "birth date": ({"birth", "of"}, {"date", "day", "birth"}),
    "phone": ({"tel", "mobile", "cell", "pager"}, {"no", "nr", "number", "num"}),
    "email": ({"e"}, {"mail"}),
    "address": ({"postal", "house"}, {"code", "number", "no"}),
    "insurance or social security number": (
        {"insurance", "insured", "policy", "security", "nhs", "medicare", "medicaid", "health"},
        {"number", "num", "no", "nr", "id"},
    ),
}  # fmt: skip
# Words that tell only if they are all there is.
_TELLING_NAMES = {
    "name": {"name", "names", "initials"},
    "record number": {"pid"},
    "phone": {"tel", "mobile", "mobil", "cell", "pager"},
    "email": {"mail"},
    "insurance or social security number": {"socialsecurity"},
}

# Where a word of a camel-case name begins: recordNumber, MRNumber.
_CAMEL = re.compile(r"(?<=[a-zäöüß0-9])(?=[A-ZÄÖÜ])|(?<=[A-ZÄÖÜ])(?=[A-ZÄÖÜ][a-zäöüß])")
_PART = re.compile(r"[^\W\d_]+")


def identifier_columns(columns: Iterable[str]) -> list[str]:
    """The names of columns that look like direct identifiers, in their order.

    They are for programs: what a person is told stands in `column_findings`.

    >>> identifier_columns(["patient_id", "PatientName", "drug_name", "Geburtsdatum", "zip"])
    ['PatientName', 'Geburtsdatum', 'zip']
    """
    return [column for column in columns if _kind_of(column) is not None]


def column_findings(
    columns: Iterable[str], *, exempt: Collection[str], file: str, identifiers: Identifiers
) -> list[Finding]:
    """A warning, or under "refuse" an error, where columns look like direct identifiers.

    They are told by their place and what they look like, and not by name: without a header, names
    are the values of the first patient.

    Args:
        columns: the header of a table.
        exempt: columns that are read: those of the study have been agreed to by everyone.
    """
    kinds = [
        f"column {place} ({kind})"
        for place, column in enumerate(columns, start=1)
        if column not in exempt and (kind := _kind_of(column)) is not None
    ]
    if not kinds:
        return []
    expected, found = "no columns that say who a patient is", ", ".join(kinds)
    if identifiers == "refuse":
        return [error(file, expected, found, "Export the table without them.")]
    return [warning(file, expected, found, "They are not read; better export without them.")]


def _kind_of(column: str) -> str | None:
    """What kind of direct identifier the name of a column tells, if any."""
    spaced = _CAMEL.sub(" ", unicodedata.normalize("NFKC", column[:200]))
    parts = [part.casefold() for part in _PART.findall(spaced)]
    pairs = list(pairwise(parts))
    words = {*parts, "".join(parts), *(a + b for a, b in pairs)}
    for kind, telling in _TELLING_PARTS.items():
        if not telling.isdisjoint(words):
            return kind
    for kind, (first, second) in _TELLING_PAIRS.items():
        if any(a in first and b in second for a, b in pairs):
            return kind
    for kind, telling in _TELLING_NAMES.items():
        if "".join(parts) in telling:
            return kind
    return None


# Letters of any script that are not small Latin ones: what a name begins with.
_NAME = r"[^\W\d_a-zß-öø-ÿ][\w'’-]{0,60}+"
_INITIAL = r"[^\W\d_a-zß-öø-ÿ]\."
_PARTICLES = r"(?:(?:van|von|vom|zu|de|der|den|del|la|le|di|da|al|el)[ ]){0,3}"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:18|19|20)\d{2}"
_MONTH_NAME = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz?|apr(?:il)?|may|mai|june?|juni|july?"
    r"|juli|aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_DIGITS = r"\d(?:[ /.()-]{0,2}\d)"  # a digit and one more, with what people set between digits

_E_MAIL = r"(?<![\w.%+-])[\w.%+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,6}"
_DATES = (
    rf"(?<![\d./-]){_YEAR}([-./]){_MONTH}\1{_DAY}(?!\d)",
    rf"(?<![\d./-])(?:{_DAY}([-./]) ?{_MONTH}|{_MONTH}([-/]){_DAY})(?:\1|\2) ?{_YEAR}(?!\d)",
    rf"(?<![\d./-])(?:{_DAY}([./]){_MONTH}|{_MONTH}(/){_DAY})(?:\1|\2)\d\d(?![\d./%-])",
    rf"(?<![\d.]){_DAY}(?:st|nd|rd|th|\.)?[ -]?(?:of )?{_MONTH_NAME}\.?,?[ -]{_YEAR}(?!\d)",
    rf"(?<!\w){_MONTH_NAME}\.? {_DAY}(?:st|nd|rd|th)?,? ?{_YEAR}(?!\d)",
    r"(?<!\w)(?:dob|d\.o\.b\.|born|birth ?date|date of birth|geb\.|geboren|geburtsdatum)"
    r"[ :]{0,3}(?:on |am )?\d(?:[./-]?\d){3,7}(?!\d)",
)
_RECORD = (
    r"(?<!\w)(?:mrn|medical record|record (?:number|no\b|nr\b|#)|patient (?:id|number|no\b|nr\b)"
    r"|chart (?:number|no\b|#)|account (?:number|no\b|#)|case number|fallnummer|fall-?nr"
    r"|patientennummer|patienten-?nr|aktenzeichen|versicherten(?:nummer|-?nr)|kvnr|ssn"
    r"|social security(?: number| no\b)?|nhs (?:number|no\b)"
    r"|(?:insurance|policy) (?:id|number|no\b))"
    r"(?: number| no\b| nr\b| id)?[ \t:#.=-]{0,4}(?:is )?[a-z]{0,3}-?\d(?:[ -]?\d){3,19}(?!\d)"
)
_NUMBERS = (
    r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])",  # the United States' social security number
    r"(?<!\w)[A-Z]\d{9}(?!\w)",  # the German health insurance's
)
_PHONES = (
    r"\+1[ .-]?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}(?!\d)",
    r"(?<![\d.,-])0[1-9]\d{1,3} \d{6,8}(?!\d)",
    r"(?<![\d.-])(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\d-])",
    r"\+[2-9]\d{1,2}[ -]?(?:\(0\)[ -]?)?\d(?:[ /-]?\d){6,12}(?!\d)",
    r"(?<![\d.,-])0\d{2,5}[/-] ?\d(?:[ -]?\d){4,8}(?!\d)",
    r"(?<!\w)(?:tel|telefon|telephone|phone|fax|mobile?|handy|cell ?phone|pager)"
    rf"(?: number| no| nr)?[.:# ]{{0,3}}\+?\(?{_DIGITS}{{5,14}}(?!\d)",
)
_TITLED = (
    r"(?<!\w)(?:(?:Mrs?|Ms|Dr|Prof)(?:\.\s{0,2}|\s{1,2})|(?:Miss|Herrn?|Frau)\s{1,2}"
    r"|(?:MRS?|MS|DR|PROF|Hr|Fr)\.\s{0,2})"
    rf"(?:(?:Dr|Prof|med)(?:\. ?| )){{0,3}}(?:{_INITIAL} ?){{0,3}}{_PARTICLES}{_NAME}"
    rf"(?: {_INITIAL}(?= ))?(?: {_PARTICLES}{_NAME}){{0,2}}"
)
# Organs, because of magnetic resonance, and mitral regurgitation: MR BRAIN, "mild mr. no as".
_TITLED_LOUDLY = (
    r"(?<!\w)(?:MRS|DR|PROF|MR(?! (?:BRAIN|HEAD|NECK|SPINE|CERVICAL|THORACIC|LUMBAR|ABDOMEN|PELVIS"
    r"|CARDIAC|HEART|LIVER|KNEE|HIP|SHOULDER|ANGIO|IMAGING|SCAN|AND|WITH|WITHOUT|OF|TO)))"
    rf"\s{{1,2}}(?:{_INITIAL} ?){{0,2}}[A-ZÄÖÜ][A-ZÄÖÜ'’-]{{2,60}}+(?![a-zß-öø-ÿ])"
)
_TITLED_SOFTLY = (
    r"(?<!\w)(?<!mild )(?<!trace )(?<!moderate )(?<!severe )(?<!no )"
    r"(?:mrs?|dr|prof)\. ?(?!recommend|notif|(?:will|has|had|is|was|and|the|on|to|for|at|of|in|no"
    r"|not|with|said|called|aware|came|saw|normal|mild|trace|moderate|severe|lv|rv|ef)\b)"
    r"[a-zß-öø-ÿ][a-zß-öø-ÿ'’-]{2,60}+"
)
_NAMED = (
    r"(?<!\w)(?:(?:[Pp]atient(?:'s|en)?|[Ll]ast|[Ff]irst|[Ff]ull)[ ]?[Nn]ame|[Ss]urname"
    rf"|Nachname|Vorname|Familienname)[ ]?[:=][ ]{{0,3}}{_NAME}(?:,? {_NAME}){{0,3}}"
)
_LABELLED = (
    rf"(?<![^\n])[ \t]{{0,8}}(?:(?:[Nn]ame|NAME)[ \t]?[:=][ \t]{{0,3}}{_NAME}(?:,? {_NAME}){{0,3}}"
    rf"|(?:[Pp]atient|PATIENT|PT)[ \t]?[:=][ \t]{{0,3}}{_NAME}(?:,? {_NAME}){{1,3}})"
)
_LABELLED_WITHIN = (
    rf"(?<!\w)(?:[Pp]atient|PATIENT|[Pp]t)\.?[ \t]?[:=][ \t]{{0,3}}{_NAME}(?:,? {_NAME}){{1,3}}"
)

_I = re.IGNORECASE
# In this order: what is longer and more certain first.
PATTERNS: tuple[re.Pattern[str], ...] = (
    re.compile(_E_MAIL, _I),
    re.compile(_RECORD, _I),
    *(re.compile(pattern, _I) for pattern in _DATES),
    *(re.compile(pattern) for pattern in _NUMBERS),
    *(re.compile(pattern, _I) for pattern in _PHONES),
    re.compile(_TITLED),
    re.compile(_TITLED_LOUDLY),
    re.compile(_TITLED_SOFTLY),
    re.compile(_NAMED),
    re.compile(_LABELLED),
    re.compile(_LABELLED_WITHIN),
)


def mask_identifiers(text: str) -> tuple[str, int]:
    """The text with `MASKED` for everything that looks like a direct identifier, and how many.

    Letters and digits in other forms (full width, and the like) are read as the plain ones, which
    a text with something masked then has throughout.

    Recognised: e-mail addresses, phone numbers, full dates (a day of a year, of birth or not),
    record, insurance and social security numbers, and names after a title or after "Name:".

    >>> mask_identifiers("Mr. Smith, MRN 123456: BP 120/80, 3.5 mg")[1]
    2
    """
    num_masked, masked = 0, unicodedata.normalize("NFKC", text)
    for pattern in PATTERNS:
        masked, num_found = pattern.subn(MASKED, masked)
        num_masked += num_found
    return (masked if num_masked else text), num_masked
