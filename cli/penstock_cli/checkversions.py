"""What ``penstock doctor`` says of versions: jobs that ask for one that nobody serves, and mixed code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from penstock.lane import full_name
from penstock.policy.versions import by_version, differing, warnings
from penstock_cli.context import App
from penstock_cli.serving import fleet


def check(app: App) -> Iterator[tuple[str, str]]:
    """Each a detail and its fix."""
    workers = fleet(app)
    now = workers.served
    waiting: Counter[tuple[str, str]] = Counter()
    for count in app.store.asked():
        waiting[count.model, count.version or ""] += count.count
    for (model, version), jobs in sorted(waiting.items()):
        if version not in by_version(now.get(model, ())):
            yield (
                f"{jobs:,} open {'job asks' if jobs == 1 else 'jobs ask'} for {full_name(model, version)}, which no"
                " worker serves",
                f"start a worker with that version, or `penstock queue purge {full_name(model, version)}`",
            )
    for model, serving in sorted(workers.taking.served.items()):
        for warning in warnings(model, serving):
            yield warning, "let all workers run the same code, or name the version: MODEL@VERSION"
    for warning in differing((each.name, each.graphs) for each in workers.live):
        yield warning, "let all run the same code: a run by name begins with the graph of the worker started last"
