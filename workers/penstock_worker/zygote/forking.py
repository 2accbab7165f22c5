"""One fork: the child runs a function and ends with its status; nothing of the parent's frames runs in it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

#: The exit status after an error that nobody has caught, as Python's own.
FAILED = 1


def fork(run: Callable[[], int | None]) -> int:
    """The child's process number. ``run`` gives its exit status. Not from one that ``census`` finds fault with."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both would write what is in it
    # A signal that comes between the two belongs to the parent's handlers, which the child still has.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
        if not child:
            _live(run)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _live(run: Callable[[], int | None]) -> NoReturn:
    status: Any = FAILED
    try:
        _as_new()
        status = run()
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        _end(int(status or 0))


def _as_new() -> None:
    """Signals as in a process that has just begun."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with suppress(OSError, ValueError, TypeError):  # those that nobody may handle
            if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN):
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end(status: int) -> NoReturn:
    """As the interpreter ends, but for the frames below, which are the parent's."""
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # those that are no daemons are waited for
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)
