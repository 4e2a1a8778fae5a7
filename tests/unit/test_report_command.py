"""`wardround report`: the files that it writes, what it prints, and what it opens."""

import json
import webbrowser
from pathlib import Path

import pytest

from server.cli_report import report
from tests.unit.report_journals import plain_journal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    text = "".join(json.dumps(event) + "\n" for event in plain_journal())
    (tmp_path / "journal.jsonl").write_text(text)
    return tmp_path


def test_the_report_is_printed_and_where_the_page_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(run)
    shown = capsys.readouterr()
    assert shown.out.rstrip("\n") == (run / "report.md").read_text().rstrip("\n")
    assert shown.err == f"Page: {run / 'report.html'}\n"


def test_json_on_the_output_is_json_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(run, as_json=True)
    assert json.loads(capsys.readouterr().out)["run_id"] == "abc"


@pytest.mark.parametrize(("is_there", "told"), [(True, ""), (False, "No browser was found")])
def test_open_gives_the_page_to_the_browser(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_there: bool,
    told: str,
) -> None:
    opened: list[str] = []

    def open_page(url: str) -> bool:
        opened.append(url)
        return is_there

    monkeypatch.setattr(webbrowser, "open", open_page)
    report(run)
    assert opened == []
    report(run, opens=True)
    assert opened == [(run / "report.html").as_uri()]
    assert told in capsys.readouterr().err
