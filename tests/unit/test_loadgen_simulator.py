"""The simulator: no request is lost or doubled, a seed repeats, and known queues come out as the books say."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.lane import LANES, Lane
from penstock.loadgen import simulator
from penstock.loadgen.arrivals import Arrival, Stream, schedule
from penstock.loadgen.seeds import seeded
from penstock.loadgen.simulator import Device, Kind, Outcome, World, denser, simulate, summary
from penstock.loadgen.simulator.worker import Worker
from penstock.loadgen.simulator.world import Item
from penstock.loadgen.tally import Fate, Sample
from penstock.model import Batching
from penstock.policy.batching import POLICIES, Hold, Release, Snapshot
from penstock.policy.fairness import Terms
from penstock.policy.waitingroom import Chosen
from tests.fixtures.examples import examples

STEADY = Device(alpha_s=0.008, beta_s=0.00025)


def world(**fields: object) -> World:
    return World(**{"device": STEADY, **fields})  # type: ignore[arg-type]


def poisson(rate: float, duration_s: float, seed: int = 1, **fields: object) -> list[Arrival]:
    return schedule([Stream(rate=rate, **fields)], duration_s, rng=seeded(seed))  # type: ignore[arg-type]


def run(it: World, arrivals: list[Arrival], seed: int = 0) -> Outcome:
    return simulate(it, arrivals, rng=Random(seed))


MODELS = ("m0", "m1", "m2")
arrivals = st.lists(
    st.builds(
        Arrival,
        at_s=st.floats(0, 2),
        lane=st.sampled_from(LANES),
        tenant=st.sampled_from(["default", "a", "b"]),
        model=st.none() | st.sampled_from(MODELS),
        cost=st.floats(0.1, 30),
        deadline_s=st.none() | st.floats(0, 0.2),
    ),
    max_size=120,
)
devices = st.builds(Device, alpha_s=st.floats(0, 0.05), beta_s=st.floats(1e-4, 0.01), noise=st.floats(0, 0.3))
batchings = st.builds(
    Batching,
    max_size=st.integers(1, 16),
    max_wait_s=st.none() | st.floats(0, 0.05),
    max_cost=st.none() | st.floats(1, 50),
    cost=st.just(lambda item: item.cost),
)
several = st.fixed_dictionaries(dict.fromkeys(MODELS, st.builds(Kind, device=devices, batching=batchings)))
worlds = st.builds(
    World,
    device=devices,
    batching=batchings,
    models=st.just({}) | several,
    terms=st.dictionaries(
        st.sampled_from(["default", "a", "b"]),
        st.builds(Terms, weight=st.floats(0.5, 4), cap=st.none() | st.integers(1, 3)),
    ),
    admission=st.booleans(),
    workers=st.integers(1, 4),
    policy=st.sampled_from(sorted(POLICIES)),
    prefetch_batches=st.floats(1, 3),
)


@given(it=worlds, coming=arrivals, seed=st.integers(0, 99))
@settings(deadline=None)
def test_every_request_ends_once(it: World, coming: list[Arrival], seed: int) -> None:
    outcome = run(it, coming, seed)
    assert len(outcome.samples) == len(coming)
    assert sorted(s.at_s for s in outcome.samples) == sorted(a.at_s for a in coming)
    assert {s.fate for s in outcome.samples} <= {Fate.OK, Fate.EXPIRED, Fate.REFUSED}
    assert all(s.latency_s is not None and s.latency_s >= 0 for s in outcome.samples)
    refused = sum(s.fate is Fate.REFUSED for s in outcome.samples)
    assert refused == 0 or it.admission
    unlimited = sum(a.deadline_s is None for a in coming) - refused
    assert sum(s.fate is Fate.OK for s in outcome.samples) >= unlimited
    # What ran is in exactly one batch, and what expired before its start in none.
    ran = sum(size for size, _ in outcome.batches)
    assert sum(s.fate is Fate.OK for s in outcome.samples) <= ran <= len(coming) - refused
    largest = max(kind.batching.max_size for kind in it.kinds.values())
    assert max((size for size, _ in outcome.batches), default=0) <= largest
    assert sum(outcome.device_s.values()) == pytest.approx(outcome.busy_s)
    # Answered in time, answered late, refused or expired: each request is exactly one of them in the report.
    found = summary(it, outcome, duration_s=2.0)
    late = found["ok"] - found["in_time"]
    assert late >= 0
    assert found["in_time"] + late + found["refused"] + found["expired"] == found["offered"] == len(coming)


@given(it=worlds, coming=arrivals, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=examples(30))
def test_the_same_seed_gives_the_same_result(it: World, coming: list[Arrival], seed: int) -> None:
    first, second = run(it, coming, seed), run(it, coming, seed)
    assert summary(it, first, duration_s=2.0) == summary(it, second, duration_s=2.0)
    assert first.batches == second.batches


@pytest.mark.parametrize("seconds", [250.0, pytest.param(600.0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_batch_size_one_is_the_md1_queue(load: float, seconds: float) -> None:
    """Pollaczek-Khinchine for a constant service time: the mean wait is ``load * s / (2 * (1 - load))``."""
    service_s = 0.01
    it = world(device=Device(alpha_s=service_s, beta_s=0.0), batching=Batching(max_size=1))
    outcome = run(it, poisson(load / service_s, seconds))
    latencies = [s.latency_s or 0.0 for s in outcome.samples]
    expected = service_s + load * service_s / (2 * (1 - load))
    assert sum(latencies) / len(latencies) == pytest.approx(expected, rel=0.06)
    assert outcome.busy_s / seconds == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("seconds", [60.0, pytest.param(200.0, marks=pytest.mark.soak)])
def test_two_servers_of_batch_one_wait_less_than_one_twice_as_loaded(seconds: float) -> None:
    coming = poisson(150, seconds)
    one, two = (world(device=Device(alpha_s=0.006, beta_s=0), batching=Batching(max_size=1), workers=n) for n in (1, 2))
    slow, quick = (summary(it, run(it, coming), duration_s=seconds) for it in (one, two))
    assert quick["mean_ms"] < slow["mean_ms"] / 2
    assert quick["utilisation"] == pytest.approx(slow["utilisation"] / 2, rel=0.01)


@pytest.mark.parametrize("size", [1, 8, 64])
def test_saturated_it_does_what_the_device_can(size: int) -> None:
    it = world(batching=Batching(max_size=size))
    outcome = run(it, poisson(2 * STEADY.capacity(size), 5.0))
    assert len(outcome.samples) / outcome.ended_s == pytest.approx(STEADY.capacity(size), rel=0.05)
    assert max(taken for taken, _ in outcome.batches) == size


def test_batches_grow_with_the_load_and_stay_within_the_target() -> None:
    """Greedy batching on (8 ms, 0.25 ms): the figures of an ideal device, 23 and 36 ms at the p99."""
    found = [summary(world(), run(world(), poisson(rate, 20.0)), duration_s=20.0) for rate in (100, 1000, 2000)]
    sizes = [row["batches"]["mean_size"] for row in found]
    assert sizes == sorted(sizes)
    assert found[1]["p99_ms"] == pytest.approx(23, abs=2)
    assert found[2]["p99_ms"] == pytest.approx(36, abs=3)
    assert all(row["goodput"] == 1.0 for row in found)


def test_interactive_goes_first() -> None:
    coming = [Arrival(at_s=0.0, lane=Lane.BACKGROUND) for _ in range(500)] + [Arrival(at_s=0.02)]
    it = world(batching=Batching(max_size=8))
    found = summary(it, run(it, coming), duration_s=1.0)
    longest_ms = STEADY.seconds(8, Random(0)) * 1e3
    assert found["lanes"]["interactive"]["max_ms"] <= 2 * longest_ms
    assert found["lanes"]["background"]["max_ms"] > 20 * longest_ms


def test_a_pinned_wait_is_waited() -> None:
    it = world(batching=Batching(max_size=4, max_wait_s=0.05))
    outcome = run(it, [Arrival(at_s=0.0), Arrival(at_s=0.01)])
    assert outcome.batches == [(2, "wait")]
    assert outcome.samples[0].latency_s == pytest.approx(0.05 + 0.0085, abs=1e-5)


def test_deadlines_that_pass_cost_no_device_time() -> None:
    coming = [Arrival(at_s=0.0) for _ in range(4)] + [Arrival(at_s=0.001, deadline_s=0.001) for _ in range(4)]
    it = world(batching=Batching(max_size=4))
    outcome = run(it, coming)
    assert outcome.batches == [(4, "full")]
    assert [s.fate for s in outcome.samples] == [Fate.OK] * 4 + [Fate.EXPIRED] * 4


def test_a_long_queue_of_jobs_without_hope_is_worked_off() -> None:
    """However many claims find nothing but such jobs."""
    coming = [Arrival(at_s=n / 1e4) for n in range(200)]
    coming += [Arrival(at_s=0.02, deadline_s=0.001) for _ in range(20_000)]
    it = world(batching=Batching(max_size=4))
    outcome = run(it, coming)
    fates = [s.fate for s in outcome.samples]
    assert (fates.count(Fate.OK), fates.count(Fate.EXPIRED)) == (200, 20_000)
    assert sum(size for size, _ in outcome.batches) < 300


def test_an_imagined_device_that_is_free_early_tries_those_that_were_abandoned() -> None:
    """By the rules of the worker's waiting room: the one that cannot be in time any more waits for its end."""
    worker = Worker(world(), [simulator.MODEL])
    for _ in range(20):
        worker.end(Chosen(simulator.MODEL, [item_until(1.0)], "full"), 0.01, 0.0)
    worker.start(Chosen(simulator.MODEL, [item_until(1.0)], "full"), 0.09)
    never, tight = item_until(0.055), item_until(0.105)
    assert worker.put([never, tight], 0.05) == 2 and worker.room.lines.empty
    worker.room.ended(0.05)
    assert worker.room.revive(0.05) and list(worker.room.lines) == [tight] and not worker.room.revive(0.05)
    assert worker.room.hopeless.items == [never]


def item_until(ends: float) -> Item:
    """One whose result is due, and of no use any more, at a time."""
    sample = Sample(0.0, Lane.INTERACTIVE, "default", 1.0, simulator.MODEL)
    return Item(sample, Lane.INTERACTIVE, 0.0, ends, ends, 1.0)


def test_batches_teach_the_book() -> None:
    outcome = run(world(), poisson(1000, 5.0))
    line = outcome.books[0].line(simulator.MODEL)
    assert line.alpha == pytest.approx(STEADY.alpha_s, rel=0.02)
    assert line.beta == pytest.approx(STEADY.beta_s, rel=0.02)


def test_the_overhead_is_on_every_latency_and_not_on_the_device() -> None:
    coming = poisson(100, 2.0)
    plain, slower = (run(world(overhead_s=overhead_s), coming) for overhead_s in (0.0, 0.005))
    assert [(s.latency_s or 0) + 0.005 for s in plain.samples] == [s.latency_s for s in slower.samples]
    assert plain.busy_s == slower.busy_s


def test_a_denser_trace_has_the_same_requests_in_less_time() -> None:
    coming = poisson(10, 2.0)
    assert [arrival.at_s * 2 for arrival in denser(coming, 2.0)] == pytest.approx([arrival.at_s for arrival in coming])


def test_an_unknown_policy_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="'psychic'") as error:
        run(world(policy="psychic"), [])
    assert "greedy" in error.value.fix


def test_a_policy_that_never_releases_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Miser:
        def decide(self, snapshot: Snapshot) -> Release | Hold:
            return Hold(None)

    monkeypatch.setitem(POLICIES, "miser", Miser)
    with pytest.raises(RuntimeError, match="left 1 requests waiting"):
        run(world(policy="miser"), [Arrival(at_s=0.0)])


# Several models ---------------------------------------------------------------------------------------------------

TEN = {
    f"m{number}": Kind(device=Device(alpha_s=0.04, beta_s=0.004), batching=Batching(max_size=64))
    for number in range(10)
}
SHARES = {name: 1 / rank / 2.929 for rank, name in enumerate(TEN, start=1)}
TARGETS = {Lane.INTERACTIVE: 0.4, Lane.BACKGROUND: 60.0}


def many(rate: float, duration_s: float, seed: int = 1) -> list[Arrival]:
    streams = [Stream(rate=rate * share, model=name) for name, share in SHARES.items()]
    return schedule(streams, duration_s, rng=seeded(seed))


def ten(**fields: object) -> World:
    return world(models=TEN, workers=5, targets_s=TARGETS, **fields)


@given(
    parts=st.lists(st.sampled_from(MODELS), min_size=3, max_size=3, unique=True).map(
        lambda names: [names[:1], names[1:]]
    ),
    models=several,
    coming=arrivals,
)
@settings(deadline=None, max_examples=examples(30))
def test_a_part_serves_its_models_and_no_other(
    parts: list[list[str]], models: dict[str, Kind], coming: list[Arrival]
) -> None:
    it = world(models=models, parts=parts)
    outcome = run(it, coming)
    assert len(outcome.samples) == len(coming)
    asked = {it.model_of(arrival.model) for arrival in coming}
    for book, part in zip(outcome.books, parts, strict=True):
        learned = {name for (name, _), line in book.items() if line.seen}
        assert learned <= set(part)
        assert len(learned) <= len(asked & set(part))


def test_shared_workers_hold_what_a_partition_cannot() -> None:
    coming = many(400, 15.0)
    names = list(TEN)
    dealt = ten(parts=[names[place : place + 2] for place in range(0, 10, 2)])
    shared, parted = (summary(it, run(it, coming), duration_s=15.0) for it in (ten(), dealt))
    assert shared["goodput"] > 0.99
    assert parted["goodput"] < 0.9


def test_models_on_shared_workers_keep_batches_whole() -> None:
    """What is claimed for a later batch cannot grow: claims from all ten queues at once would give batches of three."""
    found = summary(ten(), run(ten(), many(500, 15.0)), duration_s=15.0)
    # A cycle through ten models on five devices: 10 * alpha / (5 - rate * beta) seconds, in which 500 a second came.
    assert found["batches"]["mean_size"] == pytest.approx(500 * 0.4 / (5 - 2.0) / 10, rel=0.15)
    assert found["p99_ms"] < 400


def test_admission_leaves_models_alone_that_share_their_workers_in_peace() -> None:
    found = summary(ten(), run(ten(admission=True), many(450, 20.0)), duration_s=20.0)
    assert found["refused"] == 0


def test_admission_keeps_an_overload_from_making_everybody_late() -> None:
    it, coming = world(admission=True), poisson(5000, 6.0)
    refusing = summary(it, run(it, coming), duration_s=6.0)
    taking = summary(world(), run(world(), coming), duration_s=6.0)
    assert refusing["refused"] > 0.3 * refusing["offered"]

    def in_time_per_s(report: dict[str, Any]) -> float:
        """Without the burst of the first two seconds, which was admitted before anything was known."""
        return sum(bucket["in_time"] for bucket in report["timeline"] if bucket["at_s"] >= 2.0) / 4.0

    assert in_time_per_s(refusing) > 0.8 * STEADY.capacity(64) > 10 * in_time_per_s(taking)


def test_background_is_never_refused() -> None:
    it = world(admission=True)
    outcome = run(it, poisson(5000, 2.0, lane=Lane.BACKGROUND))
    assert {s.fate for s in outcome.samples} == {Fate.OK}


def test_a_light_tenant_is_not_refused_for_anothers_flood() -> None:
    """Admission knows a tenant's share, as in production: the flood is turned away, not who stands beside it."""
    capacity = STEADY.capacity(64)
    streams = [Stream(rate=2 * capacity, tenant="flood"), Stream(rate=0.04 * capacity, tenant="light")]
    outcome = run(world(admission=True), schedule(streams, 4.0, rng=seeded(1)))
    refused = {
        tenant: sum(s.fate is Fate.REFUSED for s in outcome.samples if s.tenant == tenant and s.at_s > 1.0)
        / sum(s.tenant == tenant and s.at_s > 1.0 for s in outcome.samples)
        for tenant in ("flood", "light")
    }
    assert refused["light"] < 0.05
    assert refused["flood"] > 0.4


def test_tenants_get_the_device_by_their_weights() -> None:
    streams = [Stream(rate=3000, tenant=tenant) for tenant in ("a", "b")]
    it = world(terms={"a": Terms(weight=1.0), "b": Terms(weight=3.0)})
    outcome = run(it, schedule(streams, 4.0, rng=seeded(1)))
    done = sorted((s.at_s + (s.latency_s or 0.0), s.tenant) for s in outcome.samples)
    while_both_wait = [tenant for at, tenant in done if 0.5 < at < 4.0]
    assert while_both_wait.count("b") / while_both_wait.count("a") == pytest.approx(3.0, rel=0.1)


def test_a_cap_bounds_what_a_tenant_has_running() -> None:
    coming = [Arrival(at_s=0.0, tenant="a") for _ in range(40)]
    outcome = run(world(terms={"a": Terms(cap=4)}), coming)
    assert {size for size, _ in outcome.batches} == {4}


def test_a_model_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="no model 'm77'"):
        run(ten(), [Arrival(at_s=0.0, model="m77")])
    with pytest.raises(ConfigError, match="both named and served"):
        ten(parts=[["m0"]])
