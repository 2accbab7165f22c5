"""Cancelling many jobs beside live traffic, on both databases.

``python benchmarks/cancel.py [--json] [--quick]``

100,000 waiting jobs are cancelled by one call of the client (by a tag, then by their ids) while another process submits
a job every 5 ms. Measured are the jobs cancelled per second and how long those submissions took meanwhile, beside how
long they take alone. See ``docs/benchmarks.md`` for the others.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.live import bar
from benchmarks.processes import BenchmarkError, environment
from benchmarks.servers import running_servers

import penstock_migrations
from penstock import Client, Model
from penstock.settings import Settings

#: Cancelled jobs a second, at least.
BAR_PER_S = 5000
JOBS, QUICK_JOBS = 100_000, 3000
#: The process beside it submits until its input ends, and prints how long each submission took, in milliseconds.
LIVE = """
import sys, threading, time
from benchmarks.cancel import Echo
from penstock import Client
took, over = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
with Client(models=[Echo]) as client:
    client.enqueue("echo", 0)
    print("ready", flush=True)
    while not over.wait(0.005):
        start = time.perf_counter()
        client.enqueue("echo", 1)
        took.append((time.perf_counter() - start) * 1e3)
print(*took)
"""


class Echo(Model):
    """Nobody serves it."""

    name = "echo"

    def predict(self, batch: list[Any]) -> list[Any]:
        """Give back what came."""
        return batch


def measure(settings: Settings, count: int) -> list[dict[str, Any]]:
    """Cancel ``count`` jobs in each way, with somebody beside it."""
    rows = []
    with Client(settings, models=[Echo]) as client:
        for way in ("alone", "by tag", "by ids"):
            jobs = []
            if way != "alone":
                for _ in range(0, count, 1000):
                    jobs += client.enqueue_many("echo", range(min(1000, count)), tags={"way": way})
            beside = subprocess.Popen(
                [sys.executable, "-c", LIVE],
                cwd=ROOT,
                env=environment(settings.environ()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            assert beside.stdout is not None
            if beside.stdout.readline() != "ready\n":
                raise BenchmarkError("the process that submits did not start")
            start = time.perf_counter()
            if way == "by tag":
                done = len(client.cancel_where(tag=("way", way)).changed)
            elif way == "by ids":
                done = len(client.cancel_many(jobs).changed)
            else:
                time.sleep(3.0)
                done = 0
            took_s = time.perf_counter() - start
            took = sorted(map(float, beside.communicate()[0].split()))
            if len(jobs) != done or not took:
                raise BenchmarkError(f"{done} of {len(jobs)} jobs were cancelled, {len(took)} submitted beside it")
            rows.append(
                {
                    "way": way,
                    "cancelled": done,
                    "per_s": done / took_s,
                    "submit_p50_ms": statistics.median(took),
                    "submit_p99_ms": took[len(took) * 99 // 100],
                    "submit_most_ms": took[-1],
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = live.arguments("cancel.py", "cancelling in bulk, live", quick="a smoke test: few jobs").parse_args(argv)
    rows: list[dict[str, Any]] = []
    about = facts(seed=1)
    if not about["quiet"]:
        print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
    try:
        with running_servers() as servers, tempfile.TemporaryDirectory() as folder:
            urls = {"sqlite": f"sqlite:///{folder}/penstock.db", "postgresql": servers.postgres.create("cancel")}
            for db, (database, url) in enumerate(urls.items()):
                penstock_migrations.upgrade(url)
                settings = Settings.load(home=Path(folder), broker_url=servers.broker_url(db), database_url=url)
                count = QUICK_JOBS if options.quick else JOBS
                rows += [{"database": database, **row} for row in measure(settings, count)]
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bars = [
        bar(f"{row['database']}, {row['way']}: jobs cancelled/s", row["per_s"], BAR_PER_S)
        for row in rows
        if row["cancelled"]
    ]
    names = ("database", "way", "cancelled", "per_s", "submit_p50_ms", "submit_p99_ms", "submit_most_ms")
    table = live.columns([names, *([_cell(row[name]) for name in names] for row in rows)])
    report = {"benchmark": "cancel", "facts": about, "rows": rows, "bars": bars}
    return live.conclude(report, options, table=table, draw=lambda path: None)


def _cell(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
