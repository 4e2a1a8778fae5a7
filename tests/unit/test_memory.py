"""Memory that goes back to the machine, each in a process of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MB = 2**20

# Blocks of 10 MB with small ones between them, all freed but the small ones: glibc, which has seen
# a larger one freed, keeps them.
BLOCKS = """
import sys
from pathlib import Path
from common.memory import give_back_at_once, give_back_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

{first}
bytearray(30 << 20)
before = resident()
kept = []
blocks = []
for _ in range(10):
    blocks.append(bytearray(b"x") * (10 << 20))
    kept.append(bytearray(b"x") * 5000)
del blocks
{last}
print(resident() - before)
"""


def printed(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("first", "last"), [("give_back_at_once()", ""), ("", "give_back_memory()")]
)
def test_what_was_freed_goes_back(first: str, last: str) -> None:
    assert int(printed(BLOCKS.format(first="", last=""))) > 80 * MB
    assert int(printed(BLOCKS.format(first=first, last=last))) < 40 * MB


def test_what_is_kept_for_good_is_not_looked_at_again() -> None:
    code = (
        "import gc\n"
        "from common.memory import keep_for_good\n"
        "before = len(gc.get_objects())\n"
        "keep_for_good()\n"
        "print(gc.get_freeze_count() > 0.9 * before, len(gc.get_objects()) < 100)"
    )
    assert printed(code) == "True True"
