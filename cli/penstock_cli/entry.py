"""Where ``penstock`` begins. Imports nothing of size, so that Ctrl-C while the rest is imported ends it quietly."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

#: As in ``errors``, which is not imported yet.
INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line and exit."""
    # A shell starts what it runs in the background with SIGINT ignored, and so it stays.
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds:
        signal.signal(signal.SIGINT, _leave)
    from penstock_cli.main import run

    status = INTERRUPTED
    try:
        if heeds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run()
    except KeyboardInterrupt:  # before ``run`` looked out for it, or while it told of another error
        pass
    finally:
        if heeds:
            signal.signal(signal.SIGINT, _leave)
    sys.exit(status)


def _leave(number: int, frame: Any) -> None:
    # Nothing was begun, or all is done: no ``finally`` waits for us, and an exception might get lost in an import.
    os._exit(INTERRUPTED)
