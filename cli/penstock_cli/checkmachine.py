"""What ``penstock doctor`` says of this machine: what it has for workers, and how many are started of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from penstock.autoscaler.backends.seats import Seats
from penstock.clock import now
from penstock.errors import Unreachable
from penstock.inventory import machine
from penstock.policy.placing import Machine
from penstock.policy.pools import DEFAULT, places
from penstock.settings import Settings
from penstock_cli.checkpools import own_models
from penstock_cli.context import App
from penstock_cli.leaders import decided_now

GIB = 2**30


def started(app: App) -> dict[str, int] | None:
    """How many workers each pool is to have now, by the autoscalers that live; ``None``: none, or nobody knows."""
    elastic = app.store.elastic
    try:
        told = decided_now(elastic.leaderships(), lease_s=app.settings.autoscaler.lease_s, now=now())
        slots = elastic.slots() if told else []
    except Unreachable:
        return None
    return {pool: sum(slot.pool == pool and slot.state == "wanted" for slot in slots) for pool in sorted(told)} or None


def check(settings: Settings, has: Mapping[str, int] | None = None) -> tuple[str, str]:
    """What there is, and what to do where it is less than the settings ask for; empty: it is enough.

    Where an autoscaler lives it knows better: the workers that each pool ``has`` are told. Where none does, and without
    models of its own (``PENSTOCK_MODELS``), nobody knows of other pools than those of the settings.
    """
    here = machine()
    if has is not None:
        return f"{shown(here)}; the autoscaler has started: {', '.join(f'{p} {n}' for p, n in has.items())}", ""
    models = own_models(settings)
    placed = {name: place.pool for name, place in places(models.values(), settings.served_pools()).items()}
    weighs: Counter[str] = Counter()
    for name, pool in placed.items():
        weighs[pool] += models[name].memory or 0
    pools = sorted({*placed.values()} or {*settings.pools} or {DEFAULT})
    room = Seats(settings, here, weighs).room(pools)
    return judge(here, {pool: (settings.pool(pool).min, room[pool]) for pool in pools})


def judge(here: Machine, pools: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    """The same of what was found, of each pool its least workers and how many there is room for: PURE."""
    starts = ", ".join(f"{pool} {_workers(least, room)}" for pool, (least, room) in pools.items())
    short = [pool for pool, (least, room) in pools.items() if room < least]
    names = " and ".join(f"pools.{pool}.min" for pool in short)
    fix = f"lower {names}, or the memory that its models and workers ask for" if short else ""
    return f"{shown(here)}; `penstock up` would start: {starts}", fix


def shown(here: Machine) -> str:
    """Cores, memory and devices, in words: PURE."""
    return (
        f"{here.cores:g} core{'' if here.cores == 1 else 's'}, {here.memory / GIB:.1f} GiB of memory, {_devices(here)}"
    )


def _devices(here: Machine) -> str:
    if not here.devices:
        # NVML and the driver are asked; without either, nobody can tell.
        return "no GPU" if here.certain else "no GPU found"
    kinds: Counter[str] = Counter(
        f"{device.name or 'of an unknown kind'}{'' if device.memory is None else f', {device.memory / GIB:.0f} GiB'}"
        for device in here.devices
    )
    return " and ".join(f"{count} GPU{'' if count == 1 else 's'} ({kind})" for kind, count in kinds.items())


def _workers(least: int, room: int) -> str:
    if room < least:
        return f"{room} of its least {least} (there is no room for more)"
    if room <= least:
        return str(least)
    return f"{least}, and up to {room} while there is work"
