"""A process that is kept alive: it ends by itself, hangs, or must not be started any more."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from client.supervision.child import Child
from client.supervision.keep import supervise
from client.supervision.restarts import MOST_LASTING, Restarts
from tests.unit.agent_cases import until
from tests.unit.supervision_cases import Alive, NoDelay, Nursery, program, sleeper

ROOT = Path(__file__).parents[2]


def is_there(pid: int) -> bool:
    """Whether a process exists and has not merely not been waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_killed_process_is_started_again() -> None:
    with Nursery(sleeper()) as nursery:
        first = nursery.started()
        os.kill(first, signal.SIGKILL)
        assert nursery.started(times=2) != first


def test_a_process_that_could_not_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where there is no memory or no file left for a moment: its supervisor goes on."""
    real, failures = subprocess.Popen, [BlockingIOError(11, "Resource temporarily unavailable")] * 3

    def scarce(*given: Any, **other: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*given, **other)

    monkeypatch.setattr(subprocess, "Popen", scarce)
    with Nursery(sleeper()) as nursery:
        assert is_there(nursery.started())
    assert not failures


def test_a_process_that_hangs_is_ended_and_started_again_though_its_pid_lives() -> None:
    signs = Alive()
    with Nursery(sleeper(signs=signs)) as nursery:
        first = nursery.started()
        signs.silence = 0.9
        nursery.child.tend()
        assert nursery.child.pid == first
        assert is_there(first)
        signs.silence = 1.1
        nursery.tended_until(lambda: signs.num_begun == 2)
        assert not is_there(first)


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    signs = Alive()
    with Nursery(sleeper(deaf, signs=signs, grace_s=0.05)) as nursery:
        first = nursery.started()
        signs.silence = 1.1
        nursery.tended_until(lambda: signs.num_begun == 2)
        assert not is_there(first)


def test_a_stopped_process_is_killed_at_the_end() -> None:
    with Nursery(sleeper(grace_s=0.05)) as nursery:
        pid = nursery.started()
        os.kill(pid, signal.SIGSTOP)
        nursery.child.end()
        assert not is_there(pid)


def test_changed_files_end_the_process_by_its_own_signal_and_start_it_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "acceptances.jsonl"
    says = "signal.signal(signal.SIGHUP, lambda *_: (os.write(1, b'hup\\n'), sys.exit(1)))"
    slow = Restarts(type("Long", (NoDelay,), {"uniform": lambda *_: 1e6})())
    what = sleeper(says, files=(path,), renewal=signal.SIGHUP)
    with Nursery(what, restarts=slow) as nursery:
        nursery.started()
        for times, content in ((2, "one"), (3, "one more"), (4, None)):
            path.write_text(content) if content else path.unlink()
            nursery.started(times)
            assert nursery.num_lines("hup") == times - 1


def test_files_that_stay_as_they_are_end_nothing(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    path.write_text("{}")
    with Nursery(sleeper(files=(path, tmp_path / "none"))) as nursery:
        pid = nursery.started()
        path.read_text()
        for _ in range(5):
            nursery.child.tend()
        assert nursery.child.pid == pid


def test_what_no_time_mends_is_given_up_with_its_exit_code() -> None:
    code = "print('site_config: Expected site.toml, found none.'); raise SystemExit(1)"
    with Nursery(program(code, name="connector")) as nursery:
        nursery.tended_until(lambda: nursery.child.given_up is not None)
        assert nursery.child.given_up == 1
        nursery.child.tend()
        assert nursery.child.pid is None
    sentence = "connector | site_config: Expected site.toml, found none."
    assert nursery.lines == [sentence] * MOST_LASTING


@pytest.mark.parametrize(
    "code",
    [
        "raise OSError(28, 'No space left on device')",  # exit code 1, without a sentence
        "print('data: Expected data that stay as they are.'); raise SystemExit(1)",
        "import os; os.kill(os.getpid(), 9)",
        "raise SystemExit(0)",
    ],
)
def test_what_may_mend_is_tried_for_as_long_as_it_takes(code: str) -> None:
    signs = Alive()
    with Nursery(program(code, signs=signs)) as nursery:
        nursery.tended_until(lambda: signs.num_begun > 2 * MOST_LASTING)
        assert nursery.child.given_up is None


def test_lines_are_passed_on_with_the_name_of_their_process() -> None:
    code = """
import sys
print("one", flush=True)
sys.stderr.buffer.write(b"two\\n" + b"x" * 70000 + b"\\n\\xff")
"""
    with Nursery(program(code, name="site process")) as nursery:
        nursery.tended_until(lambda: len(nursery.lines) >= 5)
    one, two, long, rest, last = nursery.lines[:5]
    assert (one, two) == ("site process | one", "site process | two")
    assert len(long) + len(rest) == 70000 + 2 * len("site process | ")
    assert last.startswith("site process | ")


def test_nobody_who_reads_is_no_reason_to_end() -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    child = Child(
        program("print('more than a pipe holds' * 10_000)"),
        show=broken,
        restarts=Restarts(NoDelay()),
    )
    try:
        child.tend()
        pid = child.pid
        assert pid is not None
        until(lambda: not is_there(pid))  # else it would wait for a reader
    finally:
        child.end()


def test_a_keyboard_interrupt_reaches_the_supervisor_alone() -> None:
    with Nursery(sleeper()) as nursery:
        pid = nursery.started()
        assert os.getsid(pid) == pid != os.getsid(0)


def test_processes_end_in_the_order_in_which_they_are_named() -> None:
    lines: list[str] = []
    says = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'ends\\n'), sys.exit(0)))"
    stop = threading.Event()

    def show(line: str) -> None:
        lines.append(line)
        if sum(line.endswith("ready") for line in lines) == 2:
            stop.set()

    programs = [sleeper(says, name=name) for name in ("connector", "site process")]
    assert supervise(programs, stop=stop, show=show) == 0
    assert lines[-2:] == ["connector | ends", "site process | ends"]


def test_what_cannot_run_ends_the_others_and_says_so() -> None:
    lines: list[str] = []
    programs = [
        program("raise SystemExit(2)", name="connector"),
        sleeper("print(os.getpid())"),
    ]
    stop = threading.Event()
    assert supervise(programs, stop=stop, show=lines.append, randomness=NoDelay()) == 2
    assert not any(is_there(int(line.split()[-1])) for line in lines if line.split()[-1].isdigit())


def test_a_killed_supervisor_takes_its_processes_with_it() -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid())"
    script = f"""
import threading
from client.supervision.keep import supervise
from tests.unit.supervision_cases import sleeper
programs = [sleeper({deaf!r}, name=name) for name in ("connector", "site process")]
supervise(programs, stop=threading.Event(), show=lambda line: print(line, flush=True))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().split(" | ")[1].strip() for _ in range(4)]
        pids = [int(word) for word in said if word != "ready"]
        assert len(pids) == 2
        assert all(is_there(pid) for pid in pids)
        process.kill()
    until(lambda: not any(is_there(pid) for pid in pids))


def test_a_process_whose_supervisor_is_gone_before_it_begins_does_not_begin() -> None:
    tether = ROOT / "common" / "tether.py"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", tether, "1", sys.executable, "-c", "print('began')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == ""
