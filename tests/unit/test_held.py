"""From which queues held messages are: read of some consumers at a time, remembered of the others."""

from __future__ import annotations

from penstock.policy.held import Shares


def test_new_consumers_are_read_first_and_then_those_not_read_for_longest() -> None:
    shares = Shares()
    assert shares.next(9) == []
    shares.saw({"a": 1, "b": 1, "c": 1}, {"b": {"q": 1}})
    assert shares.next(9) == ["a", "c", "b"]
    shares.saw({"a": 1, "b": 1, "c": 1}, {"a": {"q": 1}, "c": {"q": 1}})
    assert shares.next(9) == ["b", "a", "c"] and shares.next(2) == ["b", "a"]
    shares.saw({"a": 1, "b": 1, "c": 1, "d": 1}, {"b": {"q": 1}})
    assert shares.next(9) == ["d", "a", "c", "b"]


def test_a_consumer_holds_what_was_last_read_in_the_number_that_is_counted_now() -> None:
    shares = Shares()
    shares.saw({"a": 4, "b": 2}, {"a": {"q": 3, "r": 1}, "b": {"r": 2}})
    assert shares.held() == {"q": 3, "r": 3}
    shares.saw({"a": 8, "b": 2}, {"b": {"q": 1}})
    assert shares.held() == {"q": 6 + 2, "r": 2}


def test_those_never_read_are_like_the_others() -> None:
    shares = Shares()
    shares.saw({"a": 4, "b": 12}, {"a": {"q": 3, "r": 1}})
    assert shares.held() == {"q": 12, "r": 4}
    assert Shares().held() == {}


def test_who_holds_nothing_is_forgotten() -> None:
    shares = Shares()
    shares.saw({"a": 4}, {"a": {"q": 1}})
    shares.saw({}, {})
    assert shares.next(9) == [] and shares.held() == {}
    shares.saw({"a": 4}, {"a": {"r": 1}})
    assert shares.held() == {"r": 4}


def test_what_cannot_be_read_belongs_to_no_queue() -> None:
    shares = Shares()
    shares.saw({"a": 4, "b": 2}, {"a": {"q": 4}, "b": {}})
    assert shares.held() == {"q": 4}
