"""What joining brings as files: page, Markdown, one tidy CSV, and JSON for machines."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.code_version import code_fingerprint, release
from common.errors import RunError
from common.files import write_atomically
from simulations.joining.findings import Difference, Findings
from simulations.joining.intervals import Estimate
from simulations.joining.method import how_measured
from simulations.joining.page import FOOTER, joining_html, privacy_line
from simulations.joining.tables import (
    contribution_table,
    granularity_table,
    joining_table,
    levels_table,
    others_table,
    pairs_tables,
    receiving_table,
)
from simulations.joining.words import hospital_sentence, overall, question_asked
from simulations.page_markdown import table_text

_COLUMNS = (
    "what",
    "scope",
    "absent",
    "arm",
    "against",
    "seed",
    "value",
    "low",
    "high",
    "p",
    "p_adjusted",
    "num_compared",
    "verdict",
    "reason",
)


def write_joining(findings: Findings, out: Path) -> Path:
    """Writes `joining.html`, `.csv` and `.json`, and `report.md`; returns the path of the last.

    Guarantees:
        - The same findings give the same bytes.
    """
    texts = {
        "joining.html": joining_html(findings),
        "joining.csv": to_csv(findings),
        "joining.json": json.dumps(to_json(findings), indent=1) + "\n",
        "report.md": to_markdown(findings),
    }
    for name, text in texts.items():
        write_atomically(out / name, text.encode(), durable=False)
    return out / "report.md"


def to_markdown(findings: Findings) -> str:
    """Sentences first, then every table, then how it was measured."""
    study = findings.study
    parts = [f"# {study.study.title or study.name}: what joining brings"]
    parts += [*_told(findings, "##"), "## How this was measured", _items(how_measured(findings))]
    if findings.failures:
        parts += ["## Where there is no result, and why", _items(list(findings.failures))]
    parts.append(f"{_version()} {FOOTER}")
    return "\n\n".join(parts) + "\n"


def _told(findings: Findings, level: str) -> list[str]:
    """What was asked, a sentence for each hospital, all together, and the tables."""
    hospitals = [d for d in findings.of("joining") if d.scope in findings.people]
    return [
        f"{question_asked(findings)} {privacy_line(findings)}",
        _items([hospital_sentence(d, findings) for d in hospitals]),
        f"{level} All hospitals together",
        _items(overall(findings)),
        tables_text(findings),
    ]


def _version() -> str:
    return f"Wardround {release()}, code {code_fingerprint()}."


def put_into(path: Path, findings: Findings) -> None:
    """Puts sentences and tables between the study's two markers in a Markdown file of ours.

    Raises:
        RunError: the file has no such markers.
    """
    start, end = f"<!-- joining {findings.study.name} -->", "<!-- end of joining -->"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise RunError(
            f"Expected the lines '{start}' and '{end}' in {path}, found not both. Add them where "
            "the tables belong."
        )
    seeds = f"Seeds {', '.join(map(str, findings.seeds))}. {_version()}"
    body = "\n\n".join([*_told(findings, "###"), seeds])
    whole = f"{before}{start}\n\n{body}\n\n{end}{after}"
    write_atomically(path, whole.encode(), durable=False)


def tables_text(findings: Findings) -> str:
    """All tables in Markdown, each below its caption."""
    tables = [
        joining_table(findings),
        levels_table(findings),
        others_table(findings),
        receiving_table(findings),
        contribution_table(findings),
        granularity_table(findings),
        *pairs_tables(findings),
    ]
    return "\n\n".join(table_text(table) for table in tables if table is not None)


def _items(texts: list[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def to_csv(findings: Findings) -> str:
    """A line per level and per gain: of each seed, and of all together with its interval."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for level in findings.levels:
        head = {"what": "level", "scope": level.scope, "arm": level.arm}
        writer.writerows(_lines(head, level.estimate, findings))
    for d in findings.differences:
        head = {
            "what": d.question,
            "scope": d.scope,
            "absent": d.absent,
            "arm": d.arm,
            "against": d.against,
        }
        *seeds, whole = _lines(head, d.gain, findings)
        writer.writerows(seeds)
        more = {"p_adjusted": _cell(d.p_holm), "verdict": d.verdict, "reason": d.reason}
        if d.p_holm is not None:
            more["num_compared"] = str(d.num_compared)
        writer.writerow(whole | more)
    return text.getvalue()


def _lines(head: dict[str, str], of: Estimate, findings: Findings) -> list[dict[str, str]]:
    lines = [
        head | {"seed": str(seed), "value": "" if value != value else repr(value)}
        for seed, value in zip(findings.seeds, of.by_seed, strict=False)
    ]
    numbers = {"value": of.value, "low": of.low, "high": of.high, "p": of.p}
    return [*lines, head | {"seed": "all"} | {name: _cell(v) for name, v in numbers.items()}]


def _cell(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def to_json(findings: Findings) -> dict[str, Any]:
    """All findings as plain values; an undefined number is null."""
    sentences = {
        d.scope: hospital_sentence(d, findings)
        for d in findings.of("joining")
        if d.scope in findings.people
    }
    return {
        "study": findings.study.name,
        "study_hash": findings.study.hash,
        "privacy": findings.study.privacy.model_dump(mode="json"),
        "outcome": findings.outcome,
        "metric": findings.metric,
        "seeds": list(findings.seeds),
        "num_resamples": findings.num_resamples,
        "hospitals": {
            site: {"sentence": sentences[site], **asdict(people)}
            for site, people in findings.people.items()
        },
        "all_hospitals": overall(findings),
        "levels": [
            {"arm": one.arm, "scope": one.scope, **_plain(one.estimate)} for one in findings.levels
        ],
        "gains": [_difference(d) for d in findings.differences],
        "failures": list(findings.failures),
        "release": release(),
        "code": code_fingerprint(),
    }


def _difference(d: Difference) -> dict[str, Any]:
    fields = asdict(d) | {"gain": _plain(d.gain), "sites": list(d.sites)}
    return fields | {"verdict": d.verdict, "stands_when_judged_together": d.stands}


def _plain(of: Estimate) -> dict[str, Any]:
    by_seed = [None if value != value else value for value in of.by_seed]
    return asdict(of) | {"by_seed": by_seed}
