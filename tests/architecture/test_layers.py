"""The direction of imports: common <- server | client <- simulations, and who may load what."""

from pathlib import Path

import pytest
from importlinter.application.use_cases import create_report, read_user_options
from importlinter.configuration import configure

ROOT = Path(__file__).parents[2]


def test_every_contract_of_the_import_layers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    configure()
    options = read_user_options(config_filename=str(ROOT / "pyproject.toml"))
    report = create_report(options, cache_dir=None)
    assert not report.could_not_run
    checks = dict(report.get_contracts_and_checks())
    broken = [contract.name for contract, check in checks.items() if not check.kept]
    assert len(checks) >= 4
    assert broken == []
