"""The processes of a federation: all of them end, and whoever fails is named."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import RunError
from simulations.federation.processes import family
from simulations.marked_processes import end_marked, marked_processes
from tests.federation.federation_fixtures import processes_of, until

# Starts a grandchild in a session of its own, as Flower does, and both ignore SIGTERM.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", open(sys.argv[1]).read()], start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""


def test_a_child_that_ends_is_named_with_its_own_sentence(tmp_path: Path) -> None:
    with family(tmp_path) as members:
        members.start("ada", ["site", "keys", str(tmp_path / "nowhere")])
        members.children[0].process.wait(60)
        with pytest.raises(RunError) as caught:
            members.check()
    text = str(caught.value)
    assert "Expected ada to go on, found that it ended with code 1: Expected a file" in text
    assert str(tmp_path / "logs" / "ada.log") in text


def test_what_is_no_sentence_of_ours_is_not_quoted(tmp_path: Path) -> None:
    with family(tmp_path) as members:
        members.start("ada", ["no-such-command"])
        members.children[0].process.wait(60)
        with pytest.raises(RunError, match=r"ended with code 2\. Its log is"):
            members.check()


def test_all_end_with_the_family_those_in_other_sessions_too(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    environment = os.environ | {"STUBBORN": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "stubborn.py", tmp_path / "stubborn.py"],
        env=environment,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == [b"started\n", b"started\n"]
        assert len(marked_processes("STUBBORN", str(tmp_path))) == 2
        end_marked("STUBBORN", str(tmp_path), grace_s=0.2)
        assert marked_processes("STUBBORN", str(tmp_path)) == []
        assert parent.wait(10) == -signal.SIGKILL


PARENT = """
import sys, time
from pathlib import Path
from simulations.federation.processes import family
folder = Path(sys.argv[1])
with family(folder) as members:
    members.start("ada", ["stays"])
    print("started", flush=True)
    time.sleep(600)
"""
# Every interpreter that looks for it runs this first; that of the child then stays.
STAYS = """
import pathlib, sys, time
if "stays" in sys.argv:
    pathlib.Path(__file__).with_name("stays").touch()
    time.sleep(600)
"""


def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STAYS)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with parent:
        try:
            until((tmp_path / "stays").exists)
            assert len(marked_processes("WARDROUND_FEDERATION", str(tmp_path))) == 1
        finally:
            parent.kill()
        until(lambda: not processes_of(tmp_path), timeout_s=30)


def test_what_a_killed_parent_has_left_is_ended_before_new_ones_start(tmp_path: Path) -> None:
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env=os.environ | {"WARDROUND_FEDERATION": str(tmp_path)},
    )
    until(lambda: marked_processes("WARDROUND_FEDERATION", str(tmp_path)))
    with family(tmp_path):
        assert left.wait(10) == -signal.SIGTERM
