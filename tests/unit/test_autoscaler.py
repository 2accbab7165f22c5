"""The pure parts around a decision: what a fleet is, which slots change, when what died is started again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from penstock.autoscaler.backends.command import Named, words_of
from penstock.autoscaler.backends.crashes import Crashes
from penstock.autoscaler.fleet import Change, busy_workers, change, fleet_of, late_ones
from penstock.autoscaler.minutes import Minutes
from penstock.autoscaler.observe import counted, queues_of
from penstock.autoscaler.starts import Starts
from penstock.autoscaler.terms import pools_of, terms_of
from penstock.lane import PIPELINES, Lane
from penstock.policy.scaling import Decision, Fleet, Load, State, Terms
from penstock.policy.work import Count
from penstock.processes.agreed import EXIT_NOT_LOADED, SLOT_FENCE
from penstock.settings import Settings
from penstock.store.elastic import Slot
from penstock.transport.work import Spent, Work


def slot(id: str, state: str = "wanted", *, ready: bool = True, made_at: float = 0.0, **fields: Any) -> Slot:
    worker = f"{id}@host:{ord(id[0])}:abc" if ready else None
    return Slot(id, "gpu", state, 1, made_at, made_at, worker, 1.0 if ready else None, **fields)


def decided(target: int, parked: int = 0) -> Decision:
    return Decision(target=target, parked=parked, state=State(), code="x", reason="because")


def changed(decision: Decision, *slots: Slot, busy: set[str] = frozenset()) -> tuple[list[str], Mapping[str, str]]:  # type: ignore[assignment]
    done = change(decision, slots, pool="gpu", busy=busy)
    return [new.state for new in done.add], done.set


# Fleets -------------------------------------------------------------------------------------------------------------


def test_slots_are_counted_by_what_they_are() -> None:
    slots = [
        slot("a"), slot("b"), slot("c", ready=False), slot("d", "parked"), slot("e", "parked", ready=False),
        slot("f", "draining"), slot("g", "draining", ready=False),
    ]  # fmt: skip
    assert fleet_of(slots, busy={"a"}, stuck={}) == Fleet(ready=2, busy=1, starting=1, parked=2, draining=2)


def test_what_is_late_is_told_and_is_no_capacity() -> None:
    slots = [slot("a"), slot("b", ready=False), slot("c", ready=False)]
    found = fleet_of(slots, busy=(), stuck={}, late={"b"})
    assert (found.starting, found.stuck) == (1, "1 did not come up in time")
    assert fleet_of(slots, busy=(), stuck={"b": "no device"}, late={"b"}).stuck == "no device"


def test_the_time_to_come_up_begins_when_a_slot_is_seen_without_a_worker() -> None:
    """Not when it was made: one that was ready for a day and crashed is starting, and not late."""
    since, late = late_ones([slot("a", made_at=-1e6), slot("b", ready=False)], {"gone": 1.0}, start_s=10, now=100)
    assert (since, late) == ({"b": 100}, set())
    since, late = late_ones([slot("a", ready=False), slot("b", ready=False)], since, start_s=10, now=111)
    assert (since, late) == ({"b": 100, "a": 111}, {"b"})
    since, late = late_ones([slot("a"), slot("b")], since, start_s=10, now=112)
    assert (since, late) == ({}, set())


def test_a_worker_is_busy_while_it_holds_messages() -> None:
    slots = [slot("a"), slot("b"), slot("c", ready=False)]
    assert busy_workers(slots, {f"host:{ord('a')}:xyz": 3, f"host:{ord('b')}:xyz": 0, "other:97:x": 1}) == {"a"}


# Changes ------------------------------------------------------------------------------------------------------------


def test_nothing_changes_where_there_is_what_was_decided() -> None:
    assert not change(decided(2, 1), [slot("a"), slot("b"), slot("c", "parked")], pool="gpu", busy=())


def test_more_are_added() -> None:
    assert changed(decided(3), slot("a")) == (["wanted", "wanted"], {})


def test_parked_ones_come_before_new_ones_and_loaded_ones_first() -> None:
    parked = [slot("p", "parked", ready=False), slot("q", "parked")]
    assert changed(decided(2), slot("a"), *parked) == ([], {"q": "wanted", "p": "draining"})
    assert changed(decided(4), slot("a"), *parked) == (["wanted"], {"q": "wanted", "p": "wanted"})


def test_spares_are_made_up_for_when_they_are_woken() -> None:
    assert changed(decided(2, 1), slot("a"), slot("q", "parked")) == (["parked"], {"q": "wanted"})


def test_what_starts_goes_before_what_idles_before_what_is_busy() -> None:
    slots = [slot("a", made_at=1), slot("b", made_at=2), slot("c", ready=False, made_at=3)]
    assert changed(decided(2), *slots, busy={"b"})[1] == {"c": "draining"}
    assert changed(decided(1), *slots, busy={"b"})[1] == {"c": "draining", "a": "draining"}
    assert changed(decided(0), *slots, busy={"b"})[1] == dict.fromkeys("abc", "draining")


def test_fewer_are_parked_where_spares_are_wanted_and_only_loaded_ones() -> None:
    slots = [slot("a", made_at=1), slot("b", made_at=2), slot("c", ready=False, made_at=3)]
    assert changed(decided(1, 1), *slots)[1] == {"c": "draining", "b": "parked"}
    assert changed(decided(2, 1), *slots) == (["parked"], {"c": "draining"})


def test_what_drains_counts_for_nothing_and_is_not_taken_back() -> None:
    assert changed(decided(1), slot("a", "draining")) == (["wanted"], {})
    assert changed(decided(0), slot("a", "draining")) == ([], {})


def test_a_change_of_nothing_is_none() -> None:
    assert not Change()


# What died ----------------------------------------------------------------------------------------------------------


def died(crashes: Crashes, now: float, **fields: Any) -> float:
    given: dict[str, Any] = {"lived_s": 1.0, "was_ready": False, "status": 1, "words": "oh", "now": now}
    return crashes.died(**(given | fields))


def test_deaths_in_a_row_are_backed_off() -> None:
    crashes = Crashes()
    assert [died(crashes, 0.0) for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert not crashes.may_start(3.9) and crashes.may_start(4.0)
    assert crashes.reason == "CrashLoop: died 4 times in a row: oh"


def test_one_that_worked_is_no_loop() -> None:
    crashes = Crashes()
    waits = [died(crashes, 0.0, was_ready=True) for _ in range(4)] + [died(crashes, 0.0, lived_s=100.0)]
    assert waits == [0.5] * 5 and not crashes.looping
    assert crashes.reason == "died, and is started again: oh"


def test_a_model_that_does_not_load_is_a_loop_at_once() -> None:
    crashes = Crashes()
    assert died(crashes, 0.0, status=EXIT_NOT_LOADED) == 2.0
    assert crashes.looping


def test_in_a_loop_one_is_tried_at_a_time() -> None:
    crashes = Crashes()
    for _ in range(3):
        died(crashes, 0.0)
    assert crashes.may_start(2.0)
    crashes.started(now=2.0)
    assert not crashes.may_start(3.9)
    crashes.came_up()
    assert crashes.may_start(2.0) and crashes.reason == ""


# Names and words ----------------------------------------------------------------------------------------------------


def test_a_worker_has_the_first_number_that_is_free() -> None:
    taken = [Named("cpu", 1, 1), Named("gpu", 1, 2), Named("gpu", 3, 4)]
    assert Named.free("gpu", taken) == Named("gpu", 2, 3)
    assert Named.free("new", taken) == Named("new", 1, 3)
    assert Named.read(Named("gpu", 2, 3).as_json(), "gpu") == Named("gpu", 2, 3)


@pytest.mark.parametrize(("port", "given"), [(None, []), (0, ["0"]), (9100, ["9103"])])
def test_every_worker_of_a_machine_has_a_metrics_port_of_its_own(port: int | None, given: list[str]) -> None:
    settings = Settings(metrics={"port": port})
    argv, env = words_of(["penstock", "worker"], settings, slot("a"), Named("gpu", 2, 3), "word")
    assert argv[:8] == ["penstock", "worker", "--slot", "a", "--pool", "gpu", "--name", "worker-gpu-2"]
    assert argv[9:] == given and ("--metrics-port" in argv) == bool(given)
    assert env == {SLOT_FENCE: "word"}


# Terms and looks ----------------------------------------------------------------------------------------------------


def test_the_terms_of_a_pool_are_its_settings_and_what_there_is_room_for() -> None:
    settings = Settings(
        pools={"gpu": {"min": 0, "max": 8, "warm": 1, "targets": {"interactive": 0.5}}, "big": {"min": 3}}
    )
    gpu = terms_of(settings, "gpu", room=2)
    assert (gpu.least, gpu.most, gpu.warm, gpu.ready_in_s) == (0, 2, 1, 10.0)
    assert gpu.target_s == {Lane.INTERACTIVE: 0.5, Lane.BACKGROUND: 60.0}
    assert terms_of(settings, "big", room=1).most == 3, "what was asked for is wanted, and told if there is no room"
    assert terms_of(settings, "other", room=4).most == 4


def starts(*looks: tuple[float, list[Slot]], ordered: tuple[str, ...] = (), **stuck: str) -> float | None:
    found = Starts()
    found.ordered(ordered, now=looks[0][0])
    for now, slots in looks:
        found.saw("gpu", slots, stuck=stuck, late=(), every_s=1.0, now=now)
    return found.ready_in_s("gpu")


def came(id: str, *, made: float = 0.0, ready: float | None = None, **fields: Any) -> Slot:
    return Slot(id, "gpu", "wanted", 1, made, made, "w", ready, **fields)


def test_how_long_a_worker_takes_is_the_median_of_those_that_were_seen_to_come() -> None:
    new = [came("a"), came("b"), came("c")]
    ready = [came("a", ready=3.0), came("b", ready=5.0), came("c", ready=40.0)]
    looks = [(0.0, new), (3.0, [ready[0], *new[1:]]), (5.0, [*ready[:2], new[2]]), (40.0, ready)]
    assert starts(*looks, ordered=("a", "b", "c")) == 5.0
    assert starts((0.0, ready)) is None, "of those that were there before, nobody has seen how they came"


def test_a_worker_that_is_started_again_takes_what_that_takes_and_not_since_its_slot_was_made() -> None:
    day = 86_400.0
    assert starts((day, [came("a")]), (day + 4, [came("a", ready=day + 4)])) == pytest.approx(6.0)


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_another_machines_clock_says_nothing_of_how_long_a_worker_takes(skew: float) -> None:
    took = starts((0.0, []), (4.0, [came("a", ready=4.0 + skew)]), ordered=("a",))
    assert took == pytest.approx(4.0, abs=2.0)


def test_a_worker_that_is_there_before_it_was_looked_at_has_taken_no_time() -> None:
    assert starts((0.0, []), (1.0, [came("a", ready=0.3)]), ordered=("a",)) == 0.3


def test_waiting_for_anything_but_a_machine_is_no_starting() -> None:
    looks = (0.0, [came("a")]), (300.0, [came("a")]), (301.0, [came("a", ready=301.0)])
    assert starts(*looks, a="CrashLoop: died 5 times in a row") is None
    assert starts(*looks, a="Unschedulable: 0/3 nodes are available") == 301.0
    there = came("a", ready=301.0, place={"found": True})
    assert starts((0.0, [came("a")]), (301.0, [there])) is None, "somebody else had it before"


def test_a_successor_knows_what_a_start_takes() -> None:
    found = Starts()
    strange: list[object] = [{}, None, "4", True, -1, float("nan")]
    for told in strange:
        found.inherit("gpu", told)
        assert found.ready_in_s("gpu") is None
    found.inherit("gpu", 4.0)
    assert found.ready_in_s("gpu") == 4.0


def test_pools_are_those_of_models_and_of_settings() -> None:
    settings = Settings(pools={"gpu": {}})
    assert pools_of(settings, {"cpu"}) == ["cpu", "gpu"]
    assert pools_of(settings, {"cpu"}, only={"gpu"}) == ["gpu"]


def test_queues_are_those_of_models_and_of_versions_that_are_served() -> None:
    queues = queues_of("ns", {"embed": {"1", "2"}})
    assert queues["ns.embed.interactive"] == queues["ns.embed@2.interactive"] == ("embed", Lane.INTERACTIVE)
    assert queues[f"ns.{PIPELINES}.background"] == (PIPELINES, Lane.BACKGROUND)


def test_what_stands_in_a_models_queues_is_added_up() -> None:
    queues = queues_of("ns", {"embed": {"1"}})
    zeros: dict[str, float] = dict.fromkeys(queues, 0)
    work = Work(
        ready=zeros | {"ns.embed.interactive": 3, "ns.embed@1.interactive": 2},
        held=zeros | {"ns.embed.interactive": 1.0},
        spent=dict.fromkeys(queues, Spent()) | {"ns.embed.interactive": Spent(7, 1.5)},
    )
    counts = counted(work, queues)
    assert counts["embed", Lane.INTERACTIVE] == Count(there=6, held=1, done=7, device_s=1.5)
    assert counts["embed", Lane.BACKGROUND] == Count()


def test_what_was_seen_is_added_up_by_the_minute() -> None:
    minutes = Minutes()
    terms = Terms(least=1, most=4, target_s={}, ready_in_s=7.0)
    for second in range(120):
        minutes.saw(
            "gpu",
            Load(at=0, demand=1.0 + second % 2, backlog_s={Lane.INTERACTIVE: 3.0}),
            Fleet(ready=2, busy=1, starting=1),
            terms,
            decided(3),
            epoch=4,
            now=600.0 + second,
            elapsed_s=1.0,
        )
    first, second_ = minutes.due()
    assert (first.at, second_.at, first.epoch) == (600.0, 660.0, 4)
    assert (first.seconds, first.demand_s, first.demand_most) == (60.0, 90.0, 2.0)
    assert (first.backlog_s, first.wanted_s, first.ready_s, first.busy_s, first.starting_s) == (180, 180, 120, 60, 60)
    assert first.ready_in_s == 7.0
    minutes.stored()
    assert [each.at for each in minutes.due()] == [660.0], "the open one is stored again"
