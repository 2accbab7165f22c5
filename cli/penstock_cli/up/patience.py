"""Stops a stack for somebody who may lose patience."""

from __future__ import annotations

import threading

from penstock_cli.services import Signals
from penstock_cli.up.stack import Stack

#: How often somebody who stops is listened to again, seconds.
LOOK_S = 0.1


def stop(stack: Stack, signals: Signals) -> None:
    """Stop all in order and wait for it; another signal kills what it waits for."""
    stopped = threading.Event()
    signals.wait(0)  # the signal that brought us here

    def listen() -> None:
        while not stopped.is_set():
            if signals.wait(LOOK_S):
                stack.kill()

    watcher = threading.Thread(target=listen, name="penstock-up-impatient", daemon=True)
    watcher.start()
    try:
        stack.stop()
    finally:
        stopped.set()
        watcher.join()
