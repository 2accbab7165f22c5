"""Parts of ``benchmarks/pipeline.py`` about single runs: edges, makespans, and what stands at the broker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import pipelinebars as bars
from benchmarks import shapes
from benchmarks.listschedule import Devices, makespan_s
from benchmarks.live import Setting
from benchmarks.parts import Part
from benchmarks.pipelinebars import quantile
from benchmarks.pipelineground import START_TIMEOUT_S, Ground, Ours
from benchmarks.pipelines import WIDE, shapes_of
from benchmarks.processes import eventually
from benchmarks.producer import ITEM
from benchmarks.sides import StockPool

IDLE, BESIDE = "idle", "beside open runs"
NOOP = Setting(name="noop", alpha_ms=0.0, beta_ms=0.0, target_ms=100.0, model="noop", max_size=128)
#: The same device twice, one by one, where a barrier would show; and once, in batches.
SINGLES = Setting(name="one by one", alpha_ms=8.0, beta_ms=0.25, target_ms=1000.0, model="costly", max_size=1)
BATCHES = Setting(name="in batches", alpha_ms=8.0, beta_ms=0.25, target_ms=1000.0, model="costly", max_size=64)
CASES = (
    (SINGLES, 2, ("diamond", "n", "random-40", "random-400")),
    (BATCHES, 1, ("map-200", "random-40", "random-400")),
)
#: Shapes that Celery has a canvas of, which one device takes one by one; reported.
CANVASES = ("diamond", "map-200")
#: Calls of a simulated device that tell what it takes by itself.
DIRECT_CALLS = 50
#: Larger than a message may be.
LONG_TEXT = "x" * 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    repeats: int = 3
    warm: int = 30
    round_trips: int = 300
    edges: int = 300
    waiting: int = 1000
    makespans: int = 10
    runs: int = 1000
    stock_device_runs: int = 60
    stock_noop_runs: int = 200
    map_size: int = 10_000
    redeployed: int = 200
    pools: Sequence[StockPool] = ()
    seed: int = 1


def edge(ground: Ground, plan: Plan) -> Part:
    """From the end of a parent to the start of its child on a free device, beside idle round trips."""
    part = Part()
    trips: list[float] = []
    edges: dict[str, list[float]] = {}
    with ground.ours(NOOP, ["benchmarks.subject"]) as ours:
        ours.run("noop", ITEM, plan.warm)
        ours.run("pair", {"item": ITEM}, plan.warm)
        for condition in (IDLE, BESIDE):
            if condition == IDLE:
                trips = ours.run("noop", ITEM, plan.round_trips)
            else:
                wait_somewhere(ours, plan.waiting)
            after = ours.rows.newest()
            spans = ours.run("pair", {"item": ITEM}, plan.edges)
            ours.settle(after)
            edges[condition] = ours.rows.edges_s(after)
            tell_ms(part, condition, "edge", edges[condition])
            tell_ms(part, condition, "a run of two steps", spans)
    tell_ms(part, IDLE, "client.run", trips)
    part.bars = bars.edge_bars(trips, edges)
    return part


def wait_somewhere(ours: Ours, count: int) -> None:
    """Have so many open runs wait for what does not come."""
    ours.submit("waiting", {"item": ITEM}, count)


def makespan(ground: Ground, plan: Plan) -> Part:
    """Runs of several shapes, one at a time, beside the list schedule of the same steps."""
    part = Part()
    drawn = shapes_of(plan.seed)
    for setting, workers, names in CASES:
        with ground.ours(setting, ["benchmarks.devices:Costly"], workers=workers) as ours:
            late_s = oversleep_s(setting)
            part.tell(setting.name, "the device beyond its time, called directly", late_s * 1e3, "ms", of=DIRECT_CALLS)
            on = Devices(
                count=workers,
                max_size=setting.max_size,
                alpha_s=setting.alpha_ms / 1e3 + late_s,
                beta_s=setting.beta_ms / 1e3,
            )
            found = spans_s(ours, "two", max(plan.makespans, 20))
            edges = ours.rows.edges_s("", "costly", "costly-2")[-len(found) :]
            tell_ms(part, setting.name, "edge", edges)
            for name in names:
                case = f"{name}, {setting.name}"
                found = spans_s(ours, name, plan.makespans)
                schedule, depth = makespan_s(drawn[name], on), shapes.depth(drawn[name])
                part.tell(case, "list schedule", schedule * 1e3, "ms", depth=depth)
                tell_ms(part, case, "run", found)
                each = quantile(edges, 50)
                part.bars.append(bars.makespan_bar(case, found, schedule_s=schedule, edge_s=each, depth=depth))
    pool = (plan.pools or (StockPool("solo", 1, 16),))[0]
    with ground.stock(BATCHES, pool) as stock:
        for name in CANVASES:
            stock.run(name)
            tell_ms(part, f"{name}, stock", "canvas", stock.run(name, max(1, plan.makespans // 3)))
    return part


def oversleep_s(setting: Setting) -> float:
    """How much longer than it is told a simulated device takes when a bare loop calls it: no overhead of anybody's."""
    told_s = (setting.alpha_ms + setting.beta_ms) / 1e3
    took: list[float] = []
    for _ in range(DIRECT_CALLS):
        began = time.perf_counter()
        time.sleep(told_s)
        took.append(time.perf_counter() - began)
    return statistics.median(took) - told_s


def spans_s(ours: Ours, name: str, count: int) -> list[float]:
    """How long runs took, one after the other, by their own rows; after one that warms up."""
    ours.run(name, {"number": 1.0})
    after = ours.rows.newest()
    ours.run(name, {"number": 1.0}, count)
    ours.settle(after)
    return ours.rows.spans_s(after)


def messages(ground: Ground, plan: Plan) -> Part:
    """What stands at the broker for each step, of the smallest graph and of one of 400 steps with a long input."""
    part = Part()
    sizes: dict[str, list[int]] = {}
    with ground.ours(NOOP, ["benchmarks.subject"]) as ours:
        ours.run("noop", ITEM)
        ours.pause()
        for name, count in (("one-step", 1), ("wide-graph", WIDE)):
            before = len(ours.messages("noop"))
            ours.submit(name, {"text": LONG_TEXT}, 1)
            # The newest stand on the left.
            sizes[name] = [len(each) for each in stood(ours, "noop", before + count)[:count]]
        ours.resume()
        sizes["wide-graph, its last step"] = [len(each) for each in stood(ours, "nobody", 1)]
    for case, each in sizes.items():
        part.tell(case, "messages", len(each))
        part.tell(case, "bytes each", statistics.fmean(each), "bytes", most=max(each))
    part.bars = bars.message_bars(sizes)
    return part


def stood(ours: Ours, model: str, count: int) -> list[bytes]:
    """A model's messages, as soon as there are so many."""
    eventually(lambda: len(ours.messages(model)) >= count, f"{count} messages", timeout_s=START_TIMEOUT_S)
    return ours.messages(model)


def tell_ms(part: Part, case: str, what: str, values_s: Sequence[float]) -> None:
    """p50 and p99 of times."""
    for percent in (50, 99):
        value = quantile(values_s, percent)
        part.tell(case, f"{what} p{percent}", None if value is None else value * 1e3, "ms", of=len(values_s))
