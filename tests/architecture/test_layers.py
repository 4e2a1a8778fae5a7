"""The direction of imports: common <- server | client <- simulations, and who may load what."""

from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parents[2]


def test_every_contract_of_the_import_layers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    # Which contract is broken, and by which import, is in the captured output.
    assert status == cli.EXIT_STATUS_SUCCESS
