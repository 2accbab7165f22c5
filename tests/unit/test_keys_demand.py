"""What a channel may claim: the sink's quotas first, then kombu's prefetch credit, shared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.demand import UNLIMITED_CLAIM, Demand, demand


def test_without_a_sink_the_queues_share_the_credit() -> None:
    made = demand(["a", "b"], {}, credit=3, others=["b", "a"])
    assert list(made.quotas.items()) == [("b", 3), ("a", 3)]
    assert made.limit == 3


def test_no_limit_is_a_bounded_claim() -> None:
    assert demand(["a"], {}, credit=None, others=["a"]).limit == UNLIMITED_CLAIM


def test_no_credit_is_no_demand() -> None:
    assert not demand(["a"], {}, credit=0, others=["a"])


def test_a_sink_is_asked_for_its_queues_in_its_order() -> None:
    made = demand(["a", "b", "c"], {"c": 5, "a": 2, "gone": 9, "b": 0}, credit=1, others=["a", "b", "c"])
    assert list(made.quotas.items()) == [("c", 5), ("a", 2)]
    assert made.limit == 7


def test_other_queues_keep_their_credit_beside_a_sink() -> None:
    made = demand(["a", "x", "y"], {"a": 5}, credit=2, others=["y", "a", "x"])
    assert list(made.quotas.items()) == [("a", 5), ("y", 2), ("x", 2)]
    assert made.limit == 7
    assert made.without(["a"]).limit == 2
    assert made.without(["x", "y"]).limit == 5


def test_a_claim_that_brought_less_than_was_wanted_found_the_queue_empty() -> None:
    wanted = Demand({"a": 3, "b": 3})
    assert wanted.dry({"a": 3, "b": 1}) == {"b"}
    assert wanted.dry({}) == {"a", "b"}
    assert wanted.dry({"a": 3, "b": 3}) == frozenset()


def test_a_claim_that_ended_at_its_limit_says_nothing_of_what_it_did_not_reach() -> None:
    wanted = Demand({"a": 3, "b": 3}, frozenset({"a", "b"}))
    assert wanted.dry({"a": 3}) == frozenset()
    assert wanted.dry({"a": 2}) == {"a", "b"}


queues = st.sampled_from("abcdef")


@given(
    consumed=st.sets(queues),
    asked=st.dictionaries(queues, st.integers(-2, 9)),
    credit=st.none() | st.integers(0, 9),
)
def test_nothing_is_claimed_that_nobody_wants(consumed: set[str], asked: dict[str, int], credit: int | None) -> None:
    made = demand(consumed, asked, credit=credit, others=sorted(consumed))
    assert made.quotas.keys() <= consumed
    assert all(n > 0 for n in made.quotas.values())
    assert all(n == asked[queue] for queue, n in made.quotas.items() if queue in asked)
    assert made.limit <= sum(made.quotas.values())
