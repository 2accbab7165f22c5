"""``penstock tenant``: who shares the devices, and on which terms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import click
import redis

from penstock import clock
from penstock.dispatch.tenants import push, terms_of
from penstock.job import DEFAULT_TENANT
from penstock.lane import LANES, queue_name
from penstock.policy.fairness import PLAIN, Terms
from penstock.transport import inspect
from penstock.transport.tenants import used_s
from penstock.transport.url import connect, unavailable
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App

#: Longest name, as for a job's tenant, characters.
MAX_NAME = 255


@group()
def tenant() -> None:
    """Who shares the devices: weights, caps, what each has used.

    Tenants whose jobs wait in one queue get device time in proportion to their weights, whoever sends more. A tenant
    needs no entry here; without one its weight is 1 and it has no cap.
    """


@tenant.command("list")
@pass_app
def list_(app: App) -> None:
    """List the tenants, with their terms and what they have used.

    They are those that have terms or jobs, or have used a device since the broker's data began.

    QUEUED are messages that wait at the broker, RUNNING those that workers hold, which the cap bounds. USED_S are
    device seconds: a job pays its share of its batch.
    """
    preflight.check(app)
    app.out.rows(_rows(app), id="tenant", cells=lambda row: [_cell(value) for value in row.values()])


@tenant.command("set")
@click.argument("name")
@click.option("--weight", type=click.FloatRange(min=1e-6, max=1e6), help="Its share, relative to the others' weights.")
@click.option("--cap", type=click.IntRange(min=1, max=10**9), help="Most jobs that it may have running at a time.")
@click.option("--no-cap", is_flag=True, help="Remove the cap.")
@click.option("--reset", is_flag=True, help="Forget what was set here: the settings apply again.")
@pass_app
def set_(app: App, name: str, weight: float | None, cap: int | None, no_cap: bool, reset: bool) -> None:
    """Set a tenant's weight or cap, at once and for good. It wins over PENSTOCK_TENANTS.

    Jobs that run are left alone: after a cap is lowered, new ones start when enough have ended.
    """
    _check(name, weight, cap, no_cap, reset)
    preflight.check(app, broker=False)
    terms = _terms(app, name, weight, cap, no_cap)
    app.store.set_tenant(name, None if reset else terms, now=clock.now())
    now = terms_of(app.settings, app.store).get(name, PLAIN)
    client = connect(app.settings.broker)
    try:
        push(app.settings, app.store, client)
    except (redis.RedisError, OSError):
        app.out.warn("the broker does not answer; the dispatcher will tell it")
    finally:
        client.close()
    if app.out.json:
        app.out.data({"tenant": name, "weight": now.weight, "cap": now.cap})
    else:
        app.out.line(f"{name}  weight {now.weight:g}  " + (f"cap {now.cap}" if now.cap else "no cap"))


def _check(name: str, weight: float | None, cap: int | None, no_cap: bool, reset: bool) -> None:
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise click.UsageError(f"A tenant's name has 1 to {MAX_NAME} characters.")
    if cap is not None and no_cap:
        raise click.UsageError("--cap and --no-cap exclude each other.")
    if weight is not None and not math.isfinite(weight):
        raise click.UsageError("A weight is a finite number.")
    anything = weight is not None or cap is not None or no_cap
    if anything == reset:
        raise click.UsageError("Say --weight, --cap or --no-cap, or --reset alone.")


def _terms(app: App, name: str, weight: float | None, cap: int | None, no_cap: bool) -> Terms:
    terms = terms_of(app.settings, app.store).get(name, PLAIN)
    if weight is not None:
        terms = replace(terms, weight=weight)
    if cap is not None or no_cap:
        terms = replace(terms, cap=cap)
    return terms


def _rows(app: App) -> list[dict[str, Any]]:
    namespace = app.settings.namespace
    terms = terms_of(app.settings, app.store)
    lines = {(model, None) for model in app.store.models()} | {(c.model, c.version) for c in app.store.counts()}
    queues = [queue_name(namespace, model, lane, version) for model, version in lines for lane in LANES]
    client = connect(app.settings.broker)
    try:
        used = used_s(client, namespace)
        depths = inspect.tenants(client, namespace, queues)
    except (redis.RedisError, OSError) as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        client.close()
    seen = {DEFAULT_TENANT, *terms, *used, *(name for shares in depths.values() for name in shares)}
    rows = []
    for name in sorted(seen):
        own = [shares[name] for shares in depths.values() if name in shares]
        rows.append(
            {
                "tenant": name,
                "weight": terms.get(name, PLAIN).weight,
                "cap": terms.get(name, PLAIN).cap,
                "used_s": round(used.get(name, 0.0), 3),
                "queued": sum(depth.ready for depth in own),
                "running": sum(depth.claimed for depth in own),
            }
        )
    return rows


def _cell(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
