"""The direction of imports: common <- server | client <- simulations, and who may load what."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_contract_of_the_import_layers_is_kept() -> None:
    # In a process of its own: import-linter switches off the loggers of the one that it runs in.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
