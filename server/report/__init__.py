"""Results and reports: pure functions of a run's journal, and the one place that writes them."""

import json
from pathlib import Path

from common.files import write_atomically
from server.journal import read_journal
from server.report.markdown import report_of
from server.report.results import results_of


def write_report(run_dir: Path) -> Path:
    """Writes `results.json` and `report.md` from the journal alone; returns the report's path."""
    results = results_of(read_journal(run_dir / "journal.jsonl"))
    text = json.dumps(results, indent=1, allow_nan=False)
    write_atomically(run_dir / "results.json", text.encode(), durable=False)
    write_atomically(run_dir / "report.md", report_of(results).encode(), durable=False)
    return run_dir / "report.md"
