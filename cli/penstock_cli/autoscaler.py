"""``penstock autoscaler``: how many workers each pool has; run it, look at it, ask why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import structlog

from penstock.autoscaler.split import divided
from penstock.clock import isoformat, now
from penstock.policy.leadership import pools_in
from penstock.store.elastic import Change, Leadership, Slot
from penstock_cli import waiting
from penstock_cli.commands import CommonGroup, pass_app
from penstock_cli.commands import group as group_of
from penstock_cli.context import App
from penstock_cli.leaders import LEASES, known_pools, no_pool, pools_of
from penstock_cli.params import metrics_port_option, with_metrics_port
from penstock_cli.services import Signals

log = structlog.get_logger(__name__)

#: States of a pool's workers, as the status shows them.
COUNTS = ("ready", "busy", "starting", "parked", "draining")


@group_of(invoke_without_command=True)
@click.pass_context
def autoscaler(ctx: click.Context) -> None:
    """How many workers each pool has: decided from the work there is, once a second. Without a command: `run`."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(run)


assert isinstance(autoscaler, CommonGroup)


@autoscaler.command("run")
@click.argument("modules", nargs=-1, metavar="[MODULE…]")
@click.option("--pool", "pools", multiple=True, metavar="NAME", help="Look after this pool only (repeatable).")
@click.option("--leave-workers", is_flag=True, help="When it is stopped, leave the workers to the next autoscaler.")
@metrics_port_option
@pass_app
def run(
    app: App,
    modules: tuple[str, ...] = (),
    pools: tuple[str, ...] = (),
    leave_workers: bool = False,
    metrics_port: int | None = None,
) -> None:
    """Run it for the models of MODULEs (or of PENSTOCK_MODELS).

    Where it does not start the workers itself, as processes of this machine, for all that they have announced, too.

    Several may run: of those that look after the same pool one decides, and the others wait. When it is killed, the
    workers go on, and the next one takes over. When it is stopped (SIGTERM, Ctrl-C), workers on this machine finish
    what they run and end with it, at once at a second signal; those of other backends go on.
    """
    from penstock.autoscaler.daemon import Autoscaler
    from penstock.store import Store
    from penstock.telemetry.logs import configure_logs
    from penstock_cli.fleets import announced, found_in, make, pools_here, wind_up

    settings = with_metrics_port(app.with_models(modules), metrics_port)
    configure_logs(settings.log_level)
    if not waiting.for_servers(app, broker=False):
        return
    waiting.refused_for_good(app)
    found = found_in(settings)
    models = announced(found.models)
    # Or nobody could ask for those of a pool that has had no worker yet.
    if not waiting.for_servers(app, broker=False, first=lambda: app.store.announce(models, found.pipelines, now=now())):
        return
    store = Store.open(settings.database)
    try:
        backend, room = make(settings, store, models, only=pools)
        here = pools_here(settings, models)
        if here == []:
            log.warning(
                "there are no models to start workers for",
                action="autoscaler.no_models",
                fix="name the modules that define them: `penstock autoscaler run my_models`, or PENSTOCK_MODELS",
            )
        scaler = Autoscaler(settings, store, backend, room=room, given=models, only=pools, serves=here)
        with Signals() as signals:
            scaler.start()
            signals.wait()
            # Those of one that was deposed are its successor's by now.
            if not leave_workers and backend.name == "local" and not scaler.seat.waits:
                wind_up(scaler, backend, hurry=lambda: signals.wait(0))
            scaler.stop(timeout_s=None)
        backend.close()
    finally:
        store.close()


@autoscaler.command("status")
@click.option("--pool", "pools", multiple=True, metavar="NAME", help="This pool only (repeatable).")
@pass_app
def status(app: App, pools: tuple[str, ...]) -> None:
    """How many workers each pool has, and why; who decides.

    DEMAND is new work in device seconds a second: so many workers would be busy all the time. BACKLOG is the work that
    is there, in device seconds.
    """
    leaders = app.store.elastic.leaderships()
    rows = [row for row in _rows(leaders, app.store.elastic.slots()) if not pools or row["pool"] in pools]
    told = [_leader(name, leader) for name, leader in leaders.items()]
    # Who leads, or else who was the last to do so.
    told.sort(key=lambda each: (each["holder"] is not None, each["said_at"] or ""), reverse=True)
    if app.out.json:
        app.out.data({"leader": told[0] if told else None, "leaders": told, "pools": rows})
        return
    if not told:
        app.out.say("no autoscaler has run yet: `penstock autoscaler`, or `penstock up`, starts one")
        return
    for line in _who(told, LEASES * app.settings.autoscaler.lease_s):
        app.out.say(line)
    if pools and not rows:
        app.out.say(f"no autoscaler looks after {', '.join(map(repr, pools))}")
        return
    header = ("pool", "wanted", *COUNTS, "demand", "backlog", "why")
    drop = ("draining", "parked", "backlog", "demand", "busy", "starting")
    app.out.rows(rows, id="pool", header=header, cells=_cells, drop=drop, wide=("why",))


def _cells(row: Any) -> tuple[Any, ...]:
    backlog = None if row["backlog_s"] is None else f"{row['backlog_s']:g} s"
    why = ": ".join(part for part in (row["reason"], row["stuck"]) if part)
    why += f"; {divided(row['split'], row['ready'])}" if row["split"] else ""
    return (row["pool"], row["target"], *(row[name] for name in COUNTS), row["demand"], backlog, why)


def _rows(leaders: Mapping[str, Leadership], slots: list[Slot]) -> list[dict[str, Any]]:
    told = pools_of(leaders)
    rows = []
    for pool in sorted({*told, *(slot.pool for slot in slots)}):
        one, own = told.get(pool) or {}, [slot for slot in slots if slot.pool == pool]
        ready = [slot for slot in own if slot.ready_at is not None]
        rows.append(
            {
                "pool": pool,
                "target": one.get("target"),
                "ready": sum(slot.state == "wanted" for slot in ready),
                "busy": one.get("busy"),
                "starting": sum(slot.state == "wanted" and slot.ready_at is None for slot in own),
                "parked": sum(slot.state == "parked" for slot in own),
                "draining": sum(slot.state == "draining" for slot in own),
                "demand": one.get("demand"),
                "backlog_s": one.get("backlog_s"),
                "jobs": one.get("jobs"),
                "age_s": one.get("age_s"),
                "code": one.get("code"),
                "reason": one.get("reason", ""),
                "stuck": one.get("stuck", ""),
                "split": (one.get("split") or {}).get("alone", 0),
            }
        )
    return rows


def _leader(name: str, found: Leadership) -> dict[str, Any]:
    at = found.state.get("at")
    return {
        "name": name,
        "holder": found.holder or None,
        "epoch": found.epoch,
        "said_at": isoformat(at),
        "silent_s": None if at is None else round(max(0.0, now() - at), 1),
        "waits": found.state.get("waits") if not found.holder else None,
    }


def _who(told: list[dict[str, Any]], gone_s: float) -> list[str]:
    lines = []
    for each in told:
        only = ", ".join(sorted(pools_in(each["name"])))
        if each["holder"] is None:
            lines += _waiting(each["waits"], only, gone_s)
            continue
        line = f"decided{f' for {only}' if only else ''} by {each['holder']}, {each['silent_s'] or 0.0:.0f} s ago"
        if (each["silent_s"] or 0.0) > gone_s:
            line += ": it was killed, or does not reach the database, and nobody decides in its place"
        lines.append(line)
    return lines or ["no autoscaler runs: the last one was stopped"]


def _waiting(waits: Mapping[str, Any] | None, only: str, gone_s: float) -> list[str]:
    """Who has not said for long that it waits does so no longer."""
    if waits is None or now() - waits["at"] > gone_s:
        return []
    return [f"{waits['holder']} waits to decide{f' for {only}' if only else ''}: {waits['for']} has pools of it"]


@autoscaler.command("explain")
@click.argument("pool", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Most decisions.")
@pass_app
def explain(app: App, pool: str | None, limit: int) -> None:
    """Why there are so many workers: the last decisions.

    Those that changed a pool, the newest first, and those to leave it as it is since signals had been lost for
    `autoscaler.lost_after_s`.
    """
    rows = [_told(change) for change in app.store.elastic.changes(pool, limit=limit)]
    header = ("at", "pool", "before", "after", "why")
    shown = app.out.rows(
        rows,
        id="id",
        header=header,
        cells=lambda row: (row["at"], row["pool"], row["before"], _after(row), row["reason"]),
        drop=("at",),
        wide=("why",),
    )
    if not shown:
        if pool is not None and pool not in (known := known_pools(app)):
            raise no_pool(pool, known)
        app.out.say(f"nothing was changed yet{f' in pool {pool!r}' if pool else ''}")


def _after(row: Any) -> str:
    return f"{row['after']} + {row['parked']} parked" if row["parked"] else str(row["after"])


def _told(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "at": isoformat(change.at),
        "pool": change.pool,
        "before": change.before,
        "after": change.after,
        "parked": change.parked,
        "code": change.code,
        "reason": change.reason,
        "epoch": change.epoch,
    }
