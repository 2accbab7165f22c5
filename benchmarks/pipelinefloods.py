"""Parts of ``benchmarks/pipeline.py`` about many steps: a thousand runs at a time, and a map over ten thousand."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from benchmarks import pipelinebars as bars
from benchmarks.comparison import STOCK_POOLS
from benchmarks.live import SETTINGS, Setting
from benchmarks.memory import watched
from benchmarks.parts import Part
from benchmarks.pipelineground import DRAIN_TIMEOUT_S, Ground, Ours
from benchmarks.pipelineparts import NOOP, Plan
from benchmarks.processes import eventually
from benchmarks.producer import ITEM
from benchmarks.steprows import Fill

STEPS = 6
#: A second process of a prefork pool would be a second device.
ON_ONE_DEVICE = tuple(pool for pool in STOCK_POOLS if (pool.pool, pool.concurrency) != ("prefork", 2))
#: What becomes of a small map before anything is measured.
WARM_MAP = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """What the six steps run on."""

    name: str
    setting: Setting
    model: str
    source: str
    item: str | int
    limit: float


KINDS = (
    Kind("device", SETTINGS["gpu"], "device", "benchmarks.devices:Device", 1, bars.DEVICE_RATE),
    Kind("noop", NOOP, "noop", "benchmarks.subject", ITEM, bars.NOOP_RATE),
)


def flood(ground: Ground, plan: Plan) -> Part:
    """A thousand runs of six steps at a time, as many plain jobs, and stock's canvases of the same shape."""
    part = Part()
    rng = random.Random(plan.seed)
    for kind in KINDS:
        _flood(ground, plan, kind, part, rng)
    return part


def _flood(ground: Ground, plan: Plan, kind: Kind, part: Part, rng: random.Random) -> None:
    what, case = f"six-{kind.name}", f"six {kind.name} steps"
    stock_runs = plan.stock_device_runs if kind.name == "device" else plan.stock_noop_runs
    pools = plan.pools or (ON_ONE_DEVICE if kind.name == "device" else STOCK_POOLS)
    pool, rates = ground.best_stock(kind.setting, pools, what, max(10, stock_runs // 4))
    for name, rate in rates.items():
        part.tell(case, f"stock, {name}", rate, "canvases/s")
    pairs: list[tuple[float, float]] = []
    fills: list[tuple[float, float]] = []
    ended: list[float] = []
    with ground.ours(kind.setting, [kind.source]) as ours, ground.stock(kind.setting, pool) as stock:
        # The worker learns what batches take. An interactive run would keep background ones small for some seconds.
        backlog(ours, kind.model, what, {"item": kind.item}, plan.warm)
        backlog(ours, kind.model, kind.model, kind.item, plan.runs)
        stock.run(what, 5)
        for _ in range(plan.repeats):
            found: dict[str, float] = {}
            turns = ["stock", "runs", "plain"]
            rng.shuffle(turns)
            for turn in turns:
                if turn == "stock":
                    found[turn] = stock.drain_per_s(what, stock_runs)
                    continue
                given: tuple[str, object, int] = (what, {"item": kind.item}, plan.runs)
                if turn == "plain":
                    given = (kind.model, kind.item, plan.runs * STEPS)
                rate, fill, good = backlog(ours, kind.model, *given)
                ended.append(good)
                part.tell(case, turn, rate, "/s")
                part.tell(case, f"{turn}, mean batch", fill.batch, "", jobs=fill.jobs)
                found |= {turn: rate, f"{turn} fill": fill.batch}
            part.tell(case, "stock", found["stock"], "canvases/s")
            pairs.append((found["runs"], found["stock"]))
            fills.append((found["runs fill"], found["plain fill"]))
    batches = fills if kind.name == "device" else []
    part.bars += bars.flood_bars(kind.name, pairs, batches, ended=ended, limit=kind.limit)


def backlog(ours: Ours, model: str, what: str, value: object, count: int) -> tuple[float, Fill, float]:
    """Of what was submitted to workers that stood still: how many ended per second, the batches of the model, and
    the share that ended well."""
    after = ours.rows.newest()
    ours.pause()
    try:
        ours.submit(what, value, count)
        begins = time.time()
    finally:
        ours.resume()
    good = ours.finished(after)
    return count / (ours.rows.last_settled_at(after) - begins), ours.rows.fill(model, after), good


# A long map ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Times:
    """Seconds of one side: until all were at the broker, and until all was done."""

    released: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def long_map(ground: Ground, plan: Plan) -> Part:
    """A map over ten thousand, beside ``enqueue_many`` of as many plain jobs."""
    part = Part()
    times = {"map": Times(), "plain": Times()}
    joins: list[float] = []
    rng = random.Random(plan.seed)
    with ground.ours(NOOP, ["benchmarks.subject", "benchmarks.pipelines:Join"]) as ours:
        for size in (WARM_MAP, WARM_MAP):
            for side in times:
                _submit(ours, side, size)
        assert ours.stack.dispatcher is not None
        pids = {
            "worker": ours.stack.workers[0].pid,
            "dispatcher": ours.stack.dispatcher.pid,
            "client": ours.client.child.pid,
        }
        grown = dict.fromkeys(pids, 0)
        for _ in range(plan.repeats):
            for side in rng.sample(sorted(times), len(times)):
                with watched(pids) as growth:
                    times[side].released.append(_released_s(ours, side, plan.map_size))
                    begins, after = _submit(ours, side, plan.map_size)
                times[side].whole.append(ours.rows.last_settled_at(after) - begins)
                part.tell(side, "growth", max(growth.values()) / 2**20, "MiB", of=dict(growth))
                if side == "map":
                    joins.append(ours.rows.join_lag_s(after))
                    grown = {role: max(grown[role], growth[role]) for role in pids}
    for side, found in times.items():
        for figure, values in (("released", found.released), ("all done", found.whole)):
            for value in values:
                part.tell(side, figure, plan.map_size / value, "jobs/s")
    for value in joins:
        part.tell("map", "join behind the last element", value * 1e3, "ms")
    part.bars = bars.map_bars(
        released=list(zip(times["plain"].released, times["map"].released, strict=True)),
        whole=list(zip(times["plain"].whole, times["map"].whole, strict=True)),
        joins_s=joins,
        growth_bytes=grown,
    )
    return part


def _submit(ours: Ours, side: str, size: int, *, wait: bool = True) -> tuple[float, str]:
    """When it began, and the job before it."""
    after, begins = ours.rows.newest(), time.time()
    if side == "map":
        ours.submit("wide-map", {"values": [ITEM] * size}, 1)
    else:
        ours.submit("noop", ITEM, size)
    if wait:
        ours.settle(after)
    return begins, after


def _released_s(ours: Ours, side: str, size: int) -> float:
    """Until all messages stand at the broker, workers standing still; they are worked off before it returns."""
    ours.pause()
    try:
        with ours.counting("noop") as counted:
            begins, after = _submit(ours, side, size, wait=False)
            eventually(lambda: counted() >= size, "all to be published", timeout_s=DRAIN_TIMEOUT_S, every_s=0.002)
            took = time.time() - begins
    finally:
        ours.resume()
    ours.settle(after)
    return took
