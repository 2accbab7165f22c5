"""Who takes which lane, as the others see it: on both databases."""

from __future__ import annotations

from typing import Any

from penstock.store import Store
from tests.fixtures.store import T0


def register(store: Store, instance: str, *, lane: str | None = None, lease_s: float = 30.0, **models: str) -> None:
    about = {name: {"version": version, "declared": bool(version)} for name, version in models.items()}
    info: dict[str, Any] = {"models": about}
    store.register_worker(
        instance, name=instance, pool="default", lease_until=T0 + lease_s, now=T0, info=info, lane=lane
    )


def taking(store: Store, lane: str, *, at: float = T0, beside: str = "me") -> list[dict[str, str]]:
    # The fixture's worker serves nothing.
    return sorted((found for found in store.taking(lane, beside=beside, now=at) if found), key=str)


def test_those_who_do_both_and_those_who_keep_to_the_lane_take_it(store: Store) -> None:
    register(store, "me", a="1")
    register(store, "both", a="2")
    register(store, "one", lane="interactive", b="")
    register(store, "other", lane="background", c="")
    assert taking(store, "background") == [{"a": "2"}, {"c": ""}]
    assert taking(store, "interactive") == [{"a": "2"}, {"b": ""}]


def test_many_of_one_kind_are_one_answer_and_the_dead_are_none(store: Store) -> None:
    for number in range(20):
        register(store, f"w{number}", a="1")
    register(store, "dead", lease_s=5.0, b="")
    assert taking(store, "background", beside="w3") == [{"a": "1"}, {"b": ""}]
    assert taking(store, "background", beside="w3", at=T0 + 5.0) == [{"a": "1"}]
    assert taking(store, "background", beside="w3", at=T0 + 30.0) == []


def test_who_is_parked_takes_nothing(store: Store) -> None:
    register(store, "parked", lane="", a="1")
    assert taking(store, "background") == taking(store, "interactive") == []


def test_a_heartbeat_says_it_anew(store: Store) -> None:
    register(store, "w", a="1")
    assert store.heartbeat("w", lease_until=T0 + 60, now=T0, lane="interactive")
    assert taking(store, "background") == []
    assert [worker.lane for worker in store.workers() if worker.name == "w"] == ["interactive"]
    assert store.heartbeat("w", lease_until=T0 + 60, now=T0)
    assert taking(store, "background") == [{"a": "1"}]
