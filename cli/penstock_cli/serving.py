"""Who serves what now, from the workers' leases in SQL."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

from penstock.clock import now
from penstock.errors import ConfigError
from penstock.registry import Registry, unknown_model
from penstock_cli.context import App


def live_workers(app: App) -> dict[str, list[str]]:
    """Names of live workers by model."""
    serving: dict[str, list[str]] = defaultdict(list)
    at = now()
    for worker in app.store.workers():
        if worker.lease_until > at:
            for model in worker.info.get("models", {}):
                serving[model].append(worker.name)
    return dict(serving)


def check_known(app: App, model: str) -> None:
    """Raise ``UnknownModel`` for a name that nobody announced, that is not defined here, and that has no job."""
    known = set(app.store.models())
    with suppress(ConfigError):  # it may be importable elsewhere only
        known |= {cls.name for cls in Registry.load(app.settings.models)}
    if model not in known and not app.client.list(model=model, limit=1):
        raise unknown_model(model, known)


def warn_if_unserved(app: App, model: str) -> None:
    """Tell somebody who is about to wait that nobody works on it."""
    if model not in live_workers(app):
        app.out.warn(f"no worker serves {model!r} now; waiting for one (`penstock up` or `penstock worker` starts one)")
