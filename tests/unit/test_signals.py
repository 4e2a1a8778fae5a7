"""Signals that interrupt: at once, or, where Python has lost the exception, at the next look."""

import signal

import pytest

from common.signals import Interruption, interruptible
from tests.unit.lost_signals import lose_a_signal


def test_a_signal_interrupts_at_once() -> None:
    with interruptible(signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_python_has_lost_is_raised_by_the_next_check() -> None:
    with interruptible(signal.SIGTERM) as interruption:
        lose_a_signal()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_a_check_says_nothing_while_no_signal_has_come() -> None:
    Interruption().check()


def test_a_signal_is_handled_as_before_after_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
