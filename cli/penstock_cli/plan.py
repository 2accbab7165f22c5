"""``penstock plan``: how many workers, for what, and what that costs, from what the autoscaler has recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec.structs import asdict, replace

from penstock.autoscaler.terms import terms_of
from penstock.clock import now
from penstock.errors import TooLittleHistory, UnknownModel
from penstock.lane import Lane
from penstock.policy.scaling import Terms
from penstock.policy.scaling.plan import LEAST_S, Plan, lasting, learned, plan
from penstock.policy.scaling.replay import Past, Replayed
from penstock.policy.work import Pace, pace
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Minute
from penstock_cli import preflight
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.leaders import known_pools, no_pool, pools_of
from penstock_cli.output import dumps
from penstock_cli.params import Duration, complete_model

#: What a pool without ``max`` may have: what it needs.
UNBOUNDED = 10_000
#: Names of the questions.
ASKED, MORE = "as asked", "times the traffic"


@verb("plan")
@click.argument("pool", required=False)
@click.option("--since", type=Duration(), default="7d", show_default=True, metavar="DURATION", help="Look back so far.")
@click.option("--times", type=click.FloatRange(min=0.01, max=1000), default=2.0, show_default=True,
              help="What would so many times the traffic do?")  # fmt: skip
@click.option("--min", "least", type=click.IntRange(0, UNBOUNDED), help="What would this min have cost?")
@click.option("--max", "most", type=click.IntRange(0, UNBOUNDED), help="What would this max have cost?")
@click.option("--warm", type=click.IntRange(0, UNBOUNDED), help="What would so many parked spares have cost?")
@click.option("--target", type=Duration(), metavar="DURATION", help="What would this target have cost?")
@click.option("--ready-in", type=Duration(), metavar="DURATION", help="What if a worker took so long to be ready?")
@click.option("--traffic", type=click.FloatRange(min=0), help="Workers for so much work, device seconds a second.")
@click.option("--model", shell_complete=complete_model, metavar="NAME", help="Whose jobs --rate are.")
@click.option("--rate", type=click.FloatRange(min=0), help="Workers for so many jobs of --model a second.")
@click.option("--price", type=click.FloatRange(min=0), help="What a worker costs per hour, in any currency.")
@pass_app
def command(
    app: App,
    pool: str | None,
    since: float,
    times: float,
    least: int | None,
    most: int | None,
    warm: int | None,
    target: float | None,
    ready_in: float | None,
    traffic: float | None,
    model: str | None,
    rate: float | None,
    price: float | None,
) -> None:
    """How many workers a pool needs, what the last week would have cost otherwise, and what more traffic does.

    Answers come from what the autoscaler has recorded, a row per pool and minute, and are made by its own policy on a
    simple model of a pool. LATE is the share of the work that would have waited longer than the pool's tightest target.
    What there is to doubt about the answers is said below them; with less than ten minutes of records there are none.

    Without POOL, all that have records.
    """
    if (model is None) != (rate is None):
        raise click.UsageError("--model and --rate belong together.")
    preflight.check(app, broker=False)
    settings, store = app.settings, app.store
    until = now()
    history = {name: store.elastic.history(name, since=until - since, until=until) for name in _pools(app, pool)}
    enough = {name: rows for name, rows in history.items() if sum(row.seconds for row in rows) >= LEAST_S}
    if not enough:
        if pool is not None and not history[pool] and pool not in (known := known_pools(app)):
            raise no_pool(pool, known)
        raise _too_little(pool, history, since)
    traffics = {} if traffic is None else {"--traffic": traffic}
    if model is not None and rate is not None:
        traffics[f"{rate:g} {model}/s"] = rate * _pace(settings, store, model).job_s
    for name, rows in enough.items():
        minutes = [_past(row) for row in rows]
        terms = learned(minutes, _terms(settings, name))
        if ready_in is not None:
            terms = replace(terms, ready_in_s=ready_in)
        asked = _asked(terms, least=least, most=most, warm=warm, target_s=target)
        others = {f"{times:g} {MORE}": (terms, times)} | ({ASKED: (asked, 1.0)} if asked != terms else {})
        found = plan(minutes, terms, asked_s=since, others=others, traffics=traffics, sized=asked)
        _show(app, name, found, asked, since, price)
    for name in history.keys() - enough.keys():
        app.out.warn(f"pool {name} has less than {lasting(LEAST_S)} of records: nothing is planned from them")


def _pools(app: App, pool: str | None) -> list[str]:
    if pool is not None:
        return [pool]
    return sorted({*app.settings.pools, *pools_of(app.store.elastic.leaderships())})


def _too_little(pool: str | None, history: Mapping[str, Sequence[Minute]], since_s: float) -> TooLittleHistory:
    seen = max((sum(row.seconds for row in rows) for rows in history.values()), default=0.0)
    what = f"pool {pool!r:.80}" if pool is not None else "any pool"
    there = f"{lasting(seen)} of records" if seen else "no records"
    return TooLittleHistory(
        f"there are {there} of {what} in the last {lasting(since_s)}: too little to plan from",
        fix=f"let `penstock autoscaler` run for {lasting(LEAST_S)} or longer (it records what it leaves alone, too),"
        " or look back further: --since",
    )


def _terms(settings: Settings, pool: str) -> Terms:
    return terms_of(settings, pool, room=UNBOUNDED)


def _asked(terms: Terms, *, least: int | None, most: int | None, warm: int | None, target_s: float | None) -> Terms:
    if least is not None and most is not None and least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}")
    most = terms.most if most is None else most
    targets = terms.target_s if target_s is None else {**terms.target_s, Lane.INTERACTIVE: target_s}
    return replace(
        terms,
        least=min(terms.least if least is None else least, most),
        most=most,
        warm=terms.warm if warm is None else warm,
        target_s=targets,
    )


def _past(row: Minute) -> Past:
    return Past(
        at=row.at,
        seconds=row.seconds,
        demand_s=row.demand_s,
        demand_most=row.demand_most,
        wanted_s=row.wanted_s,
        parked_s=row.parked_s,
        ready_in_s=row.ready_in_s,
        wake_in_s=row.wake_in_s,
    )


def _pace(settings: Settings, store: Store, model: str) -> Pace:
    """How long a job of a model takes, as its workers have learned it."""
    known = store.models()
    if model not in known:
        raise UnknownModel(f"no model {model!r:.80} is known here", fix="see `penstock model list`")
    lines = [line.state for line in store.latencies() if line.model == model and line.key == ""]
    line = max(lines, key=lambda state: state.get("seen", 0), default=None)
    found = pace(
        line,
        size=int(known[model].get("max_size") or 1),
        target_s=settings.lanes.interactive.target,
        steps=bool(known[model].get("steps")),
    )
    if found is None:
        raise TooLittleHistory(
            f"no worker has learned how long a job of {model!r} takes, or its jobs are not alike",
            fix="let it do some, or say the traffic in device seconds a second: --traffic",
        )
    return found


# Telling ------------------------------------------------------------------------------------------------------------


def _show(app: App, pool: str, found: Plan, terms: Terms, asked_s: float, price: float | None) -> None:
    if app.out.json:
        app.out.line(_json(pool, found, terms, price))
        return
    out, traffic = app.out, found.traffic
    out.line(f"pool {pool}: {lasting(found.seen_s)} of the last {lasting(asked_s)}")
    out.line(
        f"traffic, device seconds a second: {traffic.mean:.3g} on average, {traffic.minute:.3g} in the busiest minute,"
        f" {traffic.second:.3g} in one second"
    )
    out.line()
    rows = [_row("as it was", found.recorded, price, simulated=False)]
    rows += [_row(name, replayed, price) for name, replayed in found.replayed.items()]
    out.table(["", "worker hours", "on average", "at most", "late", *(["cost"] if price is not None else [])], rows)
    out.line()
    target_s = min(terms.target_s.values())
    out.table(
        [f"workers for {target_s:g} s, at", "device s/s", "workers"],
        [
            [name, f"{need.traffic:.3g}", f"{need.workers}{' (max: more are needed)' if need.bound else ''}"]
            for name, need in found.needs.items()
        ],
    )
    for doubt in found.doubts:
        out.line(f"doubt: {doubt}")
    out.line()


def _row(name: str, found: Replayed, price: float | None, *, simulated: bool = True) -> list[str]:
    row = [name, f"{found.worker_s / 3600:,.1f}", f"{found.workers:.2f}", str(found.most)]
    row.append(f"{found.late:.2%}" if simulated else "")
    return row if price is None else [*row, f"{price * _hours(found):,.2f}"]


def _hours(found: Replayed) -> float:
    return (found.worker_s + found.parked_s) / 3600


def _json(pool: str, found: Plan, terms: Terms, price: float | None) -> str:
    def told(replayed: Replayed) -> dict[str, Any]:
        cost = {} if price is None else {"cost": round(price * _hours(replayed), 4)}
        return {**asdict(replayed), "workers": replayed.workers, "late": replayed.late, **cost}

    recorded = told(found.recorded)
    for unknown in ("late", "late_s", "changes"):
        del recorded[unknown]  # records do not tell
    return dumps(
        {
            "pool": pool,
            "seen_s": found.seen_s,
            "covered": found.covered,
            "target_s": min(terms.target_s.values()),
            "ready_in_s": terms.ready_in_s,
            "traffic": asdict(found.traffic),
            "recorded": recorded,
            "replayed": {name: told(replayed) for name, replayed in found.replayed.items()},
            "needs": {name: asdict(need) for name, need in found.needs.items()},
            "doubts": list(found.doubts),
        }
    )
