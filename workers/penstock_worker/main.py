"""The worker process: ``python -m penstock_worker [--pool NAME] [--name NAME] [--model NAME …] [--slot ID]``.

``penstock worker`` runs it under a supervisor. Settings come from the environment.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from celery.platforms import SecurityWarning  # type: ignore[attr-defined]
from celery.worker import state

from penstock.errors import ModelLoadFailed, PenstockError
from penstock.processes.agreed import EXIT_NOT_LOADED, PULSE_FD, SLOT_FENCE
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry.logs import configure_logs
from penstock_worker.report.logcontext import heed
from penstock_worker.report.names import instance_name, node_name
from penstock_worker.slot import HeldSlot
from penstock_worker.zygote.newborn import unfold

#: The exit status after an error that nobody has foreseen.
EXIT_DEFECT = 1
#: How long one thread may keep the interpreter while another wants it, seconds. With Python's 5 ms, a device thread
#: whose batch has ended would wait for as long as a small batch takes while a commit is prepared elsewhere.
SWITCH_S = 0.0005


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker until it is told to stop; the exit status."""
    parser = argparse.ArgumentParser(prog="penstock_worker")
    parser.add_argument("--pool", help="serve the models of this pool; default: all")
    parser.add_argument("--name", help="the worker's name; default: penstock@HOST, penstock-POOL@HOST")
    parser.add_argument("--model", action="append", default=[], help="serve only this model (repeatable)")
    parser.add_argument("--slot", metavar="ID", help="serve in this slot of the autoscaler's, or end with 0")
    options = parser.parse_args(argv)
    _die_with_parent()
    try:
        return run(Settings.load(), pool=options.pool, name=options.name, only=options.model, slot=options.slot or None)
    except PenstockError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NOT_LOADED if isinstance(error, ModelLoadFailed) else 1


def run(
    settings: Settings,
    *,
    pool: str | None = None,
    name: str | None = None,
    only: Sequence[str] = (),
    slot: str | None = None,
) -> int:
    """Serve models in this process until a signal ends it. Raises ``PenstockError`` when it cannot start.

    With a ``slot``, the id of one, it serves that one's pool (unless another is named) until it drains. Where it cannot
    be had, the answer is 0, and nothing was consumed.
    """
    configure_logs(settings.log_level)
    node = node_name(name, pool, socket.gethostname(), slot=slot)
    instance = instance_name(node)
    if slot is None:
        return _serve(settings, pool=pool, only=only, node=node, instance=instance, slot=None)
    store = Store.open(settings.database, pool_size=1)
    try:
        held = HeldSlot(store, slot, worker=instance, fence=os.environ.get(SLOT_FENCE))
        taken = held.take()
        if taken is None:
            return 0
        try:
            return _serve(settings, pool=pool or taken.pool, only=only, node=node, instance=instance, slot=held)
        finally:
            held.stop()
    finally:
        store.close()


def _serve(
    settings: Settings, *, pool: str | None, only: Sequence[str], node: str, instance: str, slot: HeldSlot | None
) -> int:
    from penstock_worker.app import build

    unfold()
    sys.setswitchinterval(SWITCH_S)
    # It warns root of pickled messages, which this worker never accepts.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app: Any = build(settings, pool=pool, only=only)
    app.penstock.instance, app.penstock.slot = instance, slot
    heed(app.penstock.models.values(), settings.log_level)
    worker = app.Worker(
        hostname=node,
        pool_cls="solo",
        concurrency=1,
        loglevel="WARNING",
        send_events=True,
        # A fleet that gossips does so n to n; heartbeats in SQL tell the same.
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    if app.penstock.failure is not None:
        raise app.penstock.failure
    return exit_status(worker.exitcode, asked=was_asked(), drained=app.penstock.drained)


def was_asked() -> bool:
    """Whether somebody has asked Celery to stop. SIGTERM leaves a 0, which is equal to ``False`` and is not it."""
    return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))


def exit_status(celerys: int | None, *, asked: bool, drained: bool) -> int:
    """This process's exit status, from Celery's. 0 only after a stop that somebody has asked for. PURE."""
    if asked:
        # Celery's status after Ctrl-C is 1, although it stops in the same way as after SIGTERM.
        return 0 if drained else int(celerys or 0)
    # 0 is the remote control's `shutdown`; without a status, it ended by an error that it has logged.
    return EXIT_DEFECT if celerys is None else int(celerys)


def _die_with_parent() -> None:
    """On Linux, stop cleanly when the supervisor is killed: an orphan would hold the device."""
    if PULSE_FD in os.environ and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
