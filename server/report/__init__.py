"""Results and reports: pure functions of a run's journal, and the one place that writes them."""

import json
from pathlib import Path

from common.files import write_atomically
from server.journal import read_journal
from server.report.html.facts import facts_of
from server.report.html.report import report_html
from server.report.markdown import report_of
from server.report.results import results_of


def write_report(run_dir: Path) -> Path:
    """Writes `results.json`, `report.md` and `report.html` from the journal alone.

    Returns:
        The path of `report.md`; the others stand beside it.
    """
    journal = list(read_journal(run_dir / "journal.jsonl"))
    results = results_of(journal)
    texts = {
        "results.json": json.dumps(results, indent=1, allow_nan=False),
        "report.md": report_of(results),
        "report.html": report_html(results, facts_of(journal)),
    }
    for name, text in texts.items():
        # A journal may hold half of a surrogate pair, which no encoding has a place for.
        content = text.encode(errors="backslashreplace")
        write_atomically(run_dir / name, content, durable=False)
    return run_dir / "report.md"
