"""The notebook of docs/ runs from top to bottom, and "bring your own" shows what happens."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.round.commands import Run, edit

DOCS = Path(__file__).parents[2] / "docs"
PATH = DOCS / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(PATH, as_version=4)


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_from_top_to_bottom(notebook: Any, tmp_path: Path) -> None:
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    done = client.execute()
    tables = [
        output["data"]["text/html"]
        for cell in done.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    # Rounds, the report, arms, what privacy cost, and what that does to quality.
    assert len(tables) == 5
    assert tables[1].startswith("<div><iframe title=")
    for arm in ("local only", "federated", "pooled"):
        assert f"<th>{arm}</th>" in tables[2]
    assert "<th>hospital-4</th>" in tables[3]
    assert "<th>epsilon 3</th>" in tables[4]
    # Nothing but the temporary folder was written.
    assert list(tmp_path.iterdir()) == []


def test_only_the_source_is_committed_and_no_path_of_a_machine() -> None:
    text = PATH.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_the_files_and_the_check_of_bring_your_own_are_what_it_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "bring-your-own.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", text, re.DOTALL))
    exec(compile(blocks["python"], "export.py", "exec"), {})  # noqa: S102
    (tmp_path / "icu.toml").write_text(blocks["toml"])
    run("init-site", "our-hospital", "--study", "icu.toml")
    for name in ("patients.csv", "vitals.csv"):
        (tmp_path / name).replace(tmp_path / "our-hospital" / name)
    first = run("check-site", "our-hospital", "--study", "icu.toml")
    assert first.code == 1
    shown = re.search(r"```\n(error.*?)```", text, re.DOTALL)
    assert shown is not None
    assert first.out == shown[1]
    for key in ("epsilon_budget", "cohort_size"):
        edit(tmp_path / "our-hospital" / "site.toml", f"# {key} = ", f"{key} = ")
    second = run("check-site", "our-hospital", "--study", "icu.toml")
    assert second.code == 0
    assert "budget 0 of 10 spent, 2.992 after this run" in second.out
