"""``penstock rollout``: the workers of a pool become another revision, without a gap."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from penstock.clock import isoformat, now
from penstock.errors import ConfigError
from penstock.store.elastic import RolloutOf, Slot
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.leaders import known_pools, no_pool, pools_of


class Share(click.ParamType[float]):
    """``10%`` or ``0.1``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share as a number from 0 to 1."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share: write 10% or 0.1", param, ctx)
        return share


share_option = click.option(
    "--share", type=Share(), metavar="SHARE", help="Of the workers, those that are to be of it: 10%. Default: all."
)
surge_option = click.option(
    "--surge",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Workers beyond those that are wanted, meanwhile; 0: no device is free. Default: the pool's setting, 1.",
)


@group()
def rollout() -> None:
    """The workers of a pool become another revision: new ones are ready before old ones drain.

    The autoscaler does it, on whatever it runs workers. Meanwhile both serve, each the versions of its own models.
    """


@rollout.command("start")
@click.argument("pool")
@click.argument("revision")
@click.option("--module", "modules", multiple=True, metavar="MODULE", help="Serve these modules (repeatable).")
@click.option("--image", metavar="IMAGE", help="On Kubernetes: run this image.")
@share_option
@surge_option
@pass_app
def start(
    app: App,
    pool: str,
    revision: str,
    modules: tuple[str, ...],
    image: str | None,
    share: float | None,
    surge: int | None,
) -> None:
    """Have the workers of POOL become those of REVISION.

    REVISION is a name of yours: a release, a commit. Without --module or --image they are started again as they are,
    with what the modules are by then. With --share it is a canary: so many are of it, until `penstock rollout share
    POOL 100%`, or `undo`.
    """
    if not revision.strip() or not revision.isprintable():
        raise click.UsageError("REVISION is a name: letters, digits, what is printable")
    preflight.check(app, broker=False)
    if app.settings.autoscaler.backend == "external":
        raise ConfigError(
            "autoscaler.backend is external: workers are started, and rolled out, by somebody else",
            fix="have your platform replace them when the new ones' /readyz is 200; see docs/operations.md",
        )
    if pool not in (known := known_pools(app)):
        raise no_pool(pool, known)
    spec: dict[str, Any] = {"models": list(modules)} if modules else {}
    spec |= {"image": image} if image else {}
    found = app.store.elastic.roll(
        pool,
        revision,
        spec,
        share=1.0 if share is None else share,
        surge=app.settings.pool(pool).surge if surge is None else surge,
        now=now(),
    )
    _tell(app, found, f"the workers of {pool!r} become {revision!r}")


@rollout.command("share")
@click.argument("pool")
@click.argument("share", type=Share(), metavar="SHARE")
@pass_app
def share_(app: App, pool: str, share: float) -> None:
    """Have another share of the workers be of the revision.

    SHARE is 50%, 100%; 0% for none.
    """
    _steer(app, pool, f"{share:.0%} of the workers of {pool!r} become the new revision", share=share)


@rollout.command("pause")
@click.argument("pool")
@pass_app
def pause(app: App, pool: str) -> None:
    """Leave the workers as they are for now. The pool still grows and shrinks."""
    _steer(app, pool, f"the rollout of {pool!r} is paused; `penstock rollout resume {pool}`", paused=True)


@rollout.command("resume")
@click.argument("pool")
@pass_app
def resume(app: App, pool: str) -> None:
    """Go on with it."""
    _steer(app, pool, f"the rollout of {pool!r} goes on", paused=False)


@rollout.command("undo")
@click.argument("pool")
@pass_app
def undo(app: App, pool: str) -> None:
    """Have all workers become what they were before.

    In the same way: without a gap.
    """
    preflight.check(app, broker=False)
    before = _of(app, pool)
    found = app.store.elastic.undo(pool, before.revision, now=now())
    assert found is not None
    _tell(app, found, f"the workers of {pool!r} become {_named(found.revision)} again")


@rollout.command("status")
@click.argument("pool", required=False)
@pass_app
def status(app: App, pool: str | None) -> None:
    """What workers are to be, what they are, what is waited for."""
    preflight.check(app, broker=False)
    rollouts = app.store.elastic.rollouts()
    if pool is not None:
        rollouts = {pool: _of(app, pool)}
    slots, told = app.store.elastic.slots(), _decided(app)
    rows = [_row(each, slots, told.get(name) or {}) for name, each in rollouts.items()]
    shown = app.out.rows(
        rows,
        id="pool",
        header=("pool", "revision", "share", "ready", "others", "why"),
        cells=lambda row: (
            row["pool"],
            row["revision"] or "-",
            f"{row['share']:.0%}",
            f"{row['ready']} of {row['workers']}",
            ", ".join(f"{count} of {name or '-'}" for name, count in row["others"].items()) or "-",
            row["reason"],
        ),
        drop=("share",),
        wide=("why",),
    )
    if not shown:
        app.out.say("nothing was rolled out yet: `penstock rollout start POOL REVISION`")


def _row(found: RolloutOf, slots: list[Slot], told: dict[str, Any]) -> dict[str, Any]:
    mine = [slot for slot in slots if slot.pool == found.pool and slot.state != "draining"]
    of = Counter(str(slot.spec.get("revision", "")) for slot in mine)
    ready = [slot for slot in mine if slot.ready_at is not None and slot.spec.get("revision", "") == found.revision]
    workers = of.pop(found.revision, 0)
    step = told.get("rollout") or {}
    # Between an old worker's end and the start of the one in its place, the rows alone look as if that were all.
    done = not of and found.share >= 1 and len(ready) == workers and step.get("code") in (None, "done")
    return {
        "pool": found.pool,
        "revision": found.revision,
        "previous": found.previous,
        "share": found.share,
        "surge": found.surge,
        "paused": found.paused,
        "begun_at": isoformat(found.begun_at),
        "workers": workers,
        "ready": len(ready),
        "others": dict(of),
        "done": done,
        "code": "done" if done else step.get("code"),
        "reason": "done" if done else step.get("reason") or "the autoscaler has not looked at it yet",
    }


def _decided(app: App) -> dict[str, Any]:
    """What the autoscalers have said of each pool."""
    return pools_of(app.store.elastic.leaderships())


def _steer(app: App, pool: str, words: str, *, share: float | None = None, paused: bool | None = None) -> None:
    preflight.check(app, broker=False)
    _of(app, pool)
    found = app.store.elastic.steer(pool, share=share, paused=paused, now=now())
    assert found is not None
    _tell(app, found, words)


def _of(app: App, pool: str) -> RolloutOf:
    found = app.store.elastic.rollouts().get(pool)
    if found is None:
        raise ConfigError(
            f"pool {pool!r} was never rolled out", fix=f"`penstock rollout start {pool} REVISION` does it"
        )
    return found


def _named(revision: str) -> str:
    return repr(revision) if revision else "what the settings say"


def _tell(app: App, found: RolloutOf, words: str) -> None:
    if app.out.json:
        app.out.data(_row(found, app.store.elastic.slots(), {}))
        return
    app.out.say(f"{words}; `penstock rollout status {found.pool}`")
