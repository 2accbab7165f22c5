"""Where the workers of a machine go, and how many fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.placing import (
    PROCESS_BYTES,
    THREADS,
    USABLE,
    VISIBLE,
    Device,
    Machine,
    Needs,
    NoSeat,
    Seat,
    environ,
    fit,
    most,
    seat,
    unseated,
)
from penstock.settings import Settings

GIB = 2**30


def machine(*, cores: float = 16, memory: int = 64 * GIB, gpus: int = 0, each: int | None = 80 * GIB) -> Machine:
    devices = tuple(Device(id=f"GPU-{n}", index=n, memory=each) for n in range(gpus))
    return Machine(cores=cores, memory=memory, devices=devices)


def taken(machine: Machine, *needs: Needs) -> list[Seat]:
    """The seats of so many workers, one after the other."""
    seats: list[Seat] = []
    for each in needs:
        found = seat(machine, each, seats)
        assert isinstance(found, Seat), found
        seats.append(found)
    return seats


# One seat ---------------------------------------------------------------------------------------------------------


def test_each_worker_has_a_device_of_its_own() -> None:
    gpu = Needs(pool="gpu", kind="cuda")
    seats = taken(machine(gpus=2), gpu, gpu)
    assert [each.device for each in seats] == ["GPU-0", "GPU-1"]
    full = seat(machine(gpus=2), gpu, seats)
    assert isinstance(full, NoSeat) and "no device for another worker of pool gpu: 2 may be used" in full.reason


def test_workers_that_share_spread_first() -> None:
    gpu = Needs(pool="gpu", kind="cuda", share=2)
    assert [each.device for each in taken(machine(gpus=2), *[gpu] * 4)] == ["GPU-0", "GPU-1", "GPU-0", "GPU-1"]


def test_a_device_is_shared_only_where_all_on_it_say_so() -> None:
    shared, alone = Needs(pool="small", kind="cuda", share=2), Needs(pool="big", kind="cuda")
    assert isinstance(seat(machine(gpus=1), alone, taken(machine(gpus=1), shared)), NoSeat)
    assert isinstance(seat(machine(gpus=1), shared, taken(machine(gpus=1), alone)), NoSeat)


def test_memory_of_a_device_is_not_promised_twice() -> None:
    need = Needs(pool="gpu", kind="cuda", share=4, device_memory=30 * GIB)
    on_one = machine(gpus=1)
    assert isinstance(seat(on_one, need, taken(on_one, need, need)), NoSeat)


def test_memory_of_the_machine_is_not_promised_twice() -> None:
    need = Needs(pool="cpu", kind="cpu", memory=20 * GIB)
    seats = taken(machine(), need, need)
    found = seat(machine(), need, seats)
    assert isinstance(found, NoSeat)
    assert found.reason == ("no memory for another worker of pool cpu: it wants 20.0 GiB, 17.6 GiB of 64.0 GiB is left")


def test_only_the_devices_that_are_named() -> None:
    need = Needs(pool="gpu", kind="cuda", devices=frozenset({"1", "GPU-3"}))
    assert [each.device for each in taken(machine(gpus=4), need, need)] == ["GPU-1", "GPU-3"]
    missing = seat(machine(gpus=1), need)
    assert missing == NoSeat("pool gpu wants device 1, GPU-3, and this machine has 0")
    none = seat(machine(), Needs(pool="gpu", kind="cuda"))
    assert none == NoSeat("pool gpu wants a device of kind cuda, and this machine has none")


def test_devices_that_nobody_can_list_are_left_to_the_worker() -> None:
    unsure = Machine(cores=4, memory=GIB * 8, certain=False)
    assert taken(unsure, Needs(pool="gpu", kind="cuda"))[0].device is None
    assert taken(unsure, Needs(pool="any"))[0].device is None


@pytest.mark.parametrize(
    ("needs", "threads"),
    [
        (Needs(pool="a", kind="cpu"), 4),  # four workers of four
        (Needs(pool="a", kind="cpu", most=1), 16),
        (Needs(pool="a", kind="cpu", most=5), 3),
        (Needs(pool="a", kind="cpu", most=100), 1),
        (Needs(pool="a", kind="cpu", threads=7), 7),
        (Needs(pool="cpu", kind="cpu", single=True), 1),
        (Needs(pool="gpu", kind="cuda"), 8),  # two devices
        (Needs(pool="gpu", kind="cuda", share=4), 2),
    ],
)
def test_threads_are_a_part_of_the_cores(needs: Needs, threads: int) -> None:
    assert taken(machine(gpus=2), needs)[0].threads == threads


def test_the_environment_of_a_seat() -> None:
    own = environ(Seat(pool="gpu", device="GPU-1", threads=3))
    assert own == dict.fromkeys(THREADS, "3") | {VISIBLE: "GPU-1"}
    assert environ(Seat(pool="cpu", device=""))[VISIBLE] == ""
    assert VISIBLE not in environ(Seat(pool="any", device=None))


def test_who_has_set_threads_in_the_environment_keeps_them_unless_the_settings_say_others() -> None:
    given = {"OMP_NUM_THREADS": "9", "MKL_NUM_THREADS": ""}
    assert "OMP_NUM_THREADS" not in environ(Seat(pool="a", threads=3), given)
    assert environ(Seat(pool="a", threads=3), given)["MKL_NUM_THREADS"] == "3"
    assert environ(Seat(pool="a", threads=3, said=True), given)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("threads", "cores", "shown", "told"),
    [(None, 64.0, 64, None), (None, 1.5, 64, "1"), (None, 0.2, 64, "1"), (3, 64.0, 64, "3"), (3, 1.5, 64, "3")],
)
def test_a_worker_in_a_container_starts_no_more_threads_than_its_quota(
    threads: int | None, cores: float, shown: int, told: str | None
) -> None:
    found = unseated("a", threads=threads, cores=cores, shown=shown)
    assert (found and environ(found)["OMP_NUM_THREADS"]) == told
    assert found is None or VISIBLE not in environ(found)


def test_a_seat_is_read_as_it_was_written_by_another_release_too() -> None:
    one = Seat(pool="gpu", device="GPU-1", share=2, threads=3, memory=5)
    assert Seat.from_json(one.as_json()) == one
    assert Seat.from_json({"pool": "gpu", "new": 1}) == Seat(pool="gpu")


# How many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "pools", "wanted", "expected"),
    [
        (machine(gpus=2), {"gpu": {"device": "cuda"}}, None, {"gpu": 2}),
        (machine(gpus=2), {"gpu": {"device": "cuda", "share": 3}}, None, {"gpu": 6}),
        (machine(gpus=8), {"gpu": {"device": "cuda", "max": 3}}, None, {"gpu": 3}),
        (machine(), {"a": {}}, None, {"a": 4}),
        (machine(), {"cpu": {}}, None, {"cpu": 16}),
        (machine(memory=8 * GIB), {"cpu": {"memory": "3GiB"}}, None, {"cpu": 2}),
        (machine(cores=1), {"a": {}, "cpu": {}}, None, {"a": 1, "cpu": 1}),
        (machine(cores=0.5, memory=GIB // 4), {"a": {}}, None, {"a": 0}),  # no memory for even one
        # By weight, where not all fit.
        (machine(gpus=6), {"a": {"device": "cuda", "weight": 2}, "b": {"device": "cuda"}}, None, {"a": 4, "b": 2}),
        # The least of each comes first.
        (machine(gpus=3), {"a": {"device": "cuda", "weight": 9}, "b": {"device": "cuda"}}, None, {"a": 2, "b": 1}),
        (machine(gpus=3), {"a": {"min": 0, "weight": 9}, "b": {"min": 3}}, None, {"a": 0, "b": 3}),
        # What is wanted now.
        (machine(gpus=4), {"a": {}, "b": {}}, {"a": 4}, {"a": 4, "b": 0}),
        (machine(gpus=4), {"a": {}, "b": {}}, {"a": 4, "b": 1}, {"a": 3, "b": 1}),
        (machine(gpus=4), {"a": {"max": 1}, "b": {}}, {"a": 0, "b": 9}, {"a": 0, "b": 4}),
    ],
)
def test_how_many_workers_fit(place: Machine, pools: Any, wanted: Any, expected: dict[str, int]) -> None:
    settings = Settings(pools=pools)
    assert fit(place, [settings.needs(name, place) for name in pools], wanted=wanted) == expected


def test_what_others_have_taken_is_gone() -> None:
    place = machine(gpus=3)
    there = taken(place, Needs(pool="old", kind="cuda"))
    assert fit(place, [Needs(pool="gpu", kind="cuda")], taken=there) == {"gpu": 2}


@pytest.mark.parametrize(
    ("name", "pools", "worker", "gpus", "kind", "weighs"),
    [
        ("cpu", {}, {}, 2, "cpu", PROCESS_BYTES + 7),
        ("default", {}, {}, 2, "cuda", PROCESS_BYTES),
        ("default", {}, {}, 0, None, PROCESS_BYTES + 7),
        ("default", {}, {"device": "cuda:1"}, 0, "cuda", PROCESS_BYTES),
        ("default", {"default": {"device": "cpu"}}, {"device": "cuda:1"}, 2, "cpu", PROCESS_BYTES + 7),
    ],
)
def test_needs_of_a_pool(name: str, pools: Any, worker: Any, gpus: int, kind: str | None, weighs: int) -> None:
    needs = Settings(pools=pools, worker=worker).needs(name, machine(gpus=gpus), models=7)
    assert (needs.kind, needs.weighs) == (kind, weighs)


# Whatever is asked ------------------------------------------------------------------------------------------------

machines = st.builds(
    machine,
    cores=st.floats(0.1, 64),
    memory=st.integers(0, 64 * GIB),
    gpus=st.integers(0, 6),
    each=st.none() | st.integers(1, 80 * GIB),
)
needs = st.lists(
    st.builds(
        Needs,
        pool=st.sampled_from("abcd"),
        kind=st.sampled_from([None, "cpu", "cuda"]),
        devices=st.frozensets(st.sampled_from(["0", "1", "GPU-2"])),
        share=st.integers(1, 4),
        device_memory=st.none() | st.integers(0, 80 * GIB),
        memory=st.none() | st.integers(1, 30 * GIB),
        threads=st.none() | st.integers(1, 9),
        weight=st.floats(0.1, 10),
        least=st.integers(0, 5),
        most=st.none() | st.integers(0, 9),
        single=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda each: each.pool,
)


@given(machines, needs, st.lists(st.sampled_from("abcd"), max_size=30))
def test_no_device_and_no_memory_is_promised_twice(place: Machine, pools: list[Needs], order: list[str]) -> None:
    by_name = {each.pool: each for each in pools}
    seats: list[Seat] = []
    for name in order:
        if name in by_name and isinstance(found := seat(place, by_name[name], seats), Seat):
            seats.append(found)
    assert sum(each.memory for each in seats) <= place.memory * USABLE
    assert all(each.threads >= 1 for each in seats)
    for device in place.devices:
        there = [each for each in seats if each.device == device.id]
        assert len(there) <= min((each.share for each in there), default=0)
        assert device.memory is None or sum(each.device_memory for each in there) <= device.memory
    for each in seats:
        allowed = by_name[each.pool].devices
        index = next((str(device.index) for device in place.devices if device.id == each.device), "")
        assert not each.device or not allowed or {each.device, index} & allowed


@given(machines, needs)
def test_what_fits_can_be_seated_and_no_pool_has_more_than_it_may(place: Machine, pools: list[Needs]) -> None:
    counts = fit(place, pools)
    by_name = {each.pool: each for each in pools}
    for name, count in counts.items():
        assert count <= (most(place, by_name[name]) if by_name[name].most is None else by_name[name].most or 0)
    # The same answer again, in whatever order the pools stand.
    assert fit(place, pools[::-1]) == counts


@given(machines, needs)
def test_nobody_has_more_than_its_least_while_another_could_have_its_own(place: Machine, pools: list[Needs]) -> None:
    counts = Counter(fit(place, pools))
    leasts = {each.pool: each.least for each in pools}
    only = Counter(fit(place, pools, wanted=leasts))
    if only == Counter(leasts):
        assert all(counts[each.pool] >= min(each.least, _most(place, each)) for each in pools)


def _most(place: Machine, each: Needs) -> int:
    return most(place, each) if each.most is None else each.most
