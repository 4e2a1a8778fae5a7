"""Finished work is used again only where the code and the data are the same."""

from pathlib import Path

import pytest

import simulations.versions
from simulations.versions import code_version


@pytest.mark.parametrize("package", ["client", "common", "server", "simulations"])
def test_the_version_changes_with_any_of_our_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("client", "common", "server", "simulations"):
        (tmp_path / name / "deeper").mkdir(parents=True)
        (tmp_path / name / "deeper" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(simulations.versions, "_ROOT", tmp_path)
    before = code_version.__wrapped__()
    assert code_version.__wrapped__() == before
    (tmp_path / package / "deeper" / "code.py").write_text("x = 2\n")
    assert code_version.__wrapped__() != before
