"""``penstock autoscaler run``, with what the live parts need of it: targets from a file, and a bad moment.

``BENCH_TARGETS`` is a JSON file with the target of each pool: it is written, realised and recorded as what the policy
wants is. ``BENCH_ENDED`` is a file to which the local backend's ends of workers are appended.

``BENCH_MOMENT`` names a moment between two steps of a turn, ``BENCH_SIGNAL`` the signal that this process sends itself
there, once, as soon as the file ``BENCH_ARMED`` is there; it removes that first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.elasticmodels import write

from penstock.autoscaler import pools
from penstock.autoscaler.backends.local import Local
from penstock.autoscaler.backends.running import Running
from penstock.policy.scaling import Context, Decision
from penstock.store.elastic import Elastic

#: Between which steps. All of them are between a decision and its effect.
MOMENTS = {
    "drain written": "the row says that it drains, and nothing else has happened",
    "drain noted": "the row says that its process is asked, and it is not yet",
    "asked": "its process is asked, and its end is not seen",
    "start written": "the row is there, and nothing is started",
    "start announced": "the row has a fence, and no process has it",
    "started": "the process runs, and its number is not written down",
}


def main() -> None:
    """Be the autoscaler."""
    targets = os.environ.get("BENCH_TARGETS")
    if targets:
        script(Path(targets))
    ended = os.environ.get("BENCH_ENDED")
    if ended:
        witness(ended)
    moment = os.environ.get("BENCH_MOMENT")
    if moment:
        strike_at(moment, signal.Signals[os.environ["BENCH_SIGNAL"]], Path(os.environ["BENCH_ARMED"]))
    from penstock_cli.main import main

    sys.argv = ["penstock", "autoscaler", "run", *sys.argv[1:]]
    main()


def script(file: Path) -> None:
    """Have decisions read from ``file``."""

    def decide(context: Context) -> Decision:
        wanted = json.loads(file.read_text(encoding="utf-8"))
        target = int(wanted["target"])
        return Decision(
            target=target,
            parked=int(wanted.get("parked", 0)),
            state=context.state,
            code="script",
            reason=f"the benchmark wants {target}",
        )

    assert hasattr(pools, "decide"), "it is called from there"
    pools.decide = decide  # type: ignore[attr-defined]


def witness(file: str) -> None:
    """Have each end of a worker written down, with its exit status."""
    drop = Local._drop

    @wraps(drop)
    def noted(self: Local, id: str) -> None:
        running = self._running[id]
        told = {"slot": id, "pid": running.handle.pid, "status": running.handle.status, "asked": running.asked}
        write(file, json.dumps(told) + "\n")
        drop(self, id)

    Local._drop = noted  # type: ignore[method-assign]


def strike_at(moment: str, number: signal.Signals, armed: Path) -> None:
    """Send this process a signal at that moment, once."""

    def strike() -> None:
        with suppress(FileNotFoundError):
            armed.unlink()
            os.kill(os.getpid(), number)

    def around(owner: type, name: str, *, before: bool = False, when: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            hit = when(*args, **kwargs)
            if hit and before:
                strike()
            found = original(*args, **kwargs)
            if hit and not before:
                strike()
            return found

        setattr(owner, name, wrapped)

    if moment == "drain written":
        around(Elastic, "change", when=lambda *_, set={}, **__: "draining" in set.values())
    elif moment == "drain noted":
        around(Running, "ask", before=True, when=lambda running: not running.asked)
    elif moment == "asked":
        around(Running, "ask", when=lambda running: not running.asked)
    elif moment == "start written":
        around(Elastic, "change", when=lambda *_, add=(), **__: bool(add))
    elif moment == "start announced":
        around(Elastic, "place", when=lambda *_, fence=None, **__: fence is not None)
    elif moment == "started":
        start = Running.start.__func__  # type: ignore[attr-defined]

        @wraps(start)
        def started(cls: type[Running], *args: Any, **kwargs: Any) -> Running:
            found: Running = start(cls, *args, **kwargs)
            strike()
            return found

        Running.start = classmethod(started)  # type: ignore[method-assign, assignment]
    else:
        raise SystemExit(f"there is no moment {moment!r}: {', '.join(MOMENTS)}")


if __name__ == "__main__":
    main()
