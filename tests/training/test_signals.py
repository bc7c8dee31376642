"""What a signal does to a training that is watched, and whose signals they are afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from ftx.core.errors import Termination
from ftx.training.signals import stoppable

pytestmark = pytest.mark.usefixtures("can_hang_up")
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def test_signals_go_where_they_went_before() -> None:
    before = [signal.getsignal(number) for number in WATCHED]
    with stoppable():
        assert not set(before) & {signal.getsignal(number) for number in WATCHED}
    assert [signal.getsignal(number) for number in WATCHED] == before


def test_in_another_thread_no_signal_is_watched() -> None:
    before, found = [signal.getsignal(number) for number in WATCHED], []

    def watch() -> None:
        with stoppable() as stop:
            found.append((bool(stop), [signal.getsignal(number) for number in WATCHED]))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [(False, before)]


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Termination), (signal.SIGHUP, Termination)],
)
def test_between_steps_a_signal_waits_and_a_second_one_does_not(
    number: signal.Signals, error: type[BaseException]
) -> None:
    def send() -> None:
        os.kill(os.getpid(), number)

    with stoppable() as stop:
        with stop.between_steps():
            send()
            assert stop.requested == ("interrupt" if number == signal.SIGINT else "terminate")
            with pytest.raises(error):
                send()
        stop.requested = None
        with pytest.raises(error):
            send()


FREED = """
import ctypes, mmap, os, signal
from ftx.core.signal_stack import SignalStack
from ftx.training.signals import stoppable

memory = mmap.mmap(-1, 1 << 16)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
assert libc.sigaltstack(ctypes.byref(SignalStack(start, 0, 1 << 16)), None) == 0
assert libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(1 << 16)) == 0
with stoppable() as stop, stop.between_steps():
    os.kill(os.getpid(), signal.SIGINT)
    print(stop.requested, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_a_signal_stack_that_others_freed_is_not_used() -> None:
    """As OpenVINO frees it on CPUs with AMX, with the Core that it came with."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupt\n"), done.stderr
