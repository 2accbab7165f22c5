"""Who gets which news: the inbox, without any connection."""

from __future__ import annotations

import json

import pytest

from penstock.client import inbox as module
from penstock.client.inbox import Inbox, Ticket
from penstock.job import JobState


def result(id: str, output: object = None, state: str = "succeeded") -> dict[str, object]:
    record: dict[str, object] = {"id": id, "state": state, "attempt": 1}
    if state == "succeeded":
        record["output"] = output
    return record


def message(*records: dict[str, object]) -> bytes:
    return json.dumps(records).encode()


def taken(ticket: Ticket) -> list[str]:
    return [record.id for record in ticket.take()[0]]


def test_results_go_to_whoever_waits_and_wake_him() -> None:
    box, woken = Inbox(), []
    one = Ticket(["a"], foreign=False, wake=lambda: woken.append("one"))
    two = Ticket(["a", "b"], foreign=False, wake=lambda: woken.append("two"))
    box.open(one)
    box.open(two)
    box.deliver(message(result("a", 1), result("b", 2), result("c", 3)))
    assert one.ready
    assert taken(one) == ["a"]
    assert not one.ready
    assert taken(two) == ["a", "b"]
    assert woken == ["one", "two", "two"]


def test_a_result_that_comes_early_is_kept_for_the_first_waiter() -> None:
    box = Inbox()
    box.deliver(message(result("a", [1, 2])))
    ticket = Ticket(["a"], foreign=False)
    box.open(ticket)
    (record,), _, _ = ticket.take()
    assert record.complete
    assert record.state is JobState.SUCCEEDED
    assert bytes(record.output) == b"[1, 2]"  # type: ignore[arg-type]


def test_a_long_output_is_not_in_the_news_and_a_null_one_is() -> None:
    box = Inbox()
    ticket = Ticket(["a", "b", "c"], foreign=False)
    box.open(ticket)
    box.deliver(message({"id": "a", "state": "succeeded"}, result("b", None), result("c", state="failed")))
    assert [record.complete for record in ticket.take()[0]] == [False, True, True]


def test_what_a_leaving_waiter_did_not_take_is_kept() -> None:
    box = Inbox()
    leaver = Ticket(["a"], foreign=False)
    box.open(leaver)
    box.deliver(message(result("a")))
    box.close(leaver)
    assert len(box) == 0
    ticket = Ticket(["a"], foreign=False)
    box.open(ticket)
    assert taken(ticket) == ["a"]


def test_a_second_waiter_looks_again_when_the_first_has_left() -> None:
    box = Inbox()
    first, second = Ticket(["a"], foreign=False), Ticket(["a"], foreign=False)
    box.open(first)
    box.open(second)
    box.close(first)
    assert second.take() == ([], ["a"], False)


def test_early_results_are_bounded_and_a_loss_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EARLY", 2)
    box = Inbox()
    box.deliver(message(result("a"), result("b")))
    assert box.losses == 0
    box.deliver(message(result("c")))
    assert box.losses == 1
    ticket = Ticket(["a", "b", "c"], foreign=False)
    box.open(ticket)
    assert taken(ticket) == ["b", "c"]
    monkeypatch.setattr(module, "MOST_EARLY_BYTES", 100)
    box.deliver(message(result("d", "x" * 60), result("e", "x" * 60)))
    assert box.losses == 2


def test_a_forgotten_result_is_gone() -> None:
    box = Inbox()
    box.deliver(message(result("a", "x" * 50)))
    box.forget("a")
    box.forget("unknown")
    ticket = Ticket(["a"], foreign=False)
    box.open(ticket)
    assert not ticket.ready
    assert box._early_bytes == 0


def test_changes_of_state_concern_those_who_asked_for_them() -> None:
    box = Inbox()
    own = Ticket(["a"], foreign=False)
    foreign = Ticket(["a"], foreign=True)
    stream = Ticket(["a"], foreign=True, every_change=True)
    for ticket in (own, foreign, stream):
        box.open(ticket)
    box.hear(b'{"state":"running","ids":["a","z"],"model":"m","at":1.0,"worker":"w"}')
    assert [t.ready for t in (own, foreign, stream)] == [False, False, True]
    box.hear(b'{"state":"failed","ids":["a"]}')
    assert [t.ready for t in (own, foreign, stream)] == [False, True, True]
    assert foreign.take() == ([], ["a"], False)


def test_progress_wakes_streams_and_asks_for_no_look() -> None:
    box = Inbox()
    waiter = Ticket(["a"], foreign=True)
    stream = Ticket(["a"], foreign=True, every_change=True)
    for ticket in (waiter, stream):
        box.open(ticket)
    box.hear(b'{"state":"progress","ids":["a"],"model":"m","at":1.0,"worker":"w"}')
    assert [t.ready for t in (waiter, stream)] == [False, True]
    assert stream.take() == ([], [], False)


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b'[{"id":1}]', b'[{"id":"a","state":"???"}]', b"\xff\xfe", b"{}"])
def test_junk_on_a_channel_is_ignored(junk: bytes) -> None:
    box = Inbox()
    ticket = Ticket(["a"], foreign=True, every_change=True)
    box.open(ticket)
    box.deliver(junk)
    box.hear(junk)
    assert not ticket.ready


def test_news_of_states_that_are_not_the_end_is_no_result() -> None:
    box = Inbox()
    ticket = Ticket(["a"], foreign=False)
    box.open(ticket)
    box.deliver(message(result("a", state="running")))
    assert not ticket.ready


def test_a_gap_and_the_end_reach_everybody_once() -> None:
    box, woken = Inbox(), []
    ticket = Ticket(["a", "b"], foreign=False, wake=lambda: woken.append(1))
    box.open(ticket)
    box.gap()
    assert ticket.take() == ([], [], True)
    box.end()
    assert ticket.closed
    assert woken == [1, 1]
