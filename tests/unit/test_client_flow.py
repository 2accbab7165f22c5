"""How waiting works, step by step: the flow is driven by hand, without any connection."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from penstock.client import _flow
from penstock.client._flow import PIECES, Call, Emit, Open, Wait, completed, streamed
from penstock.client.handle import Handle, unsuccessful
from penstock.client.inbox import Inbox, Ticket
from penstock.errors import (
    BrokerUnavailable,
    JobNotFound,
    PenstockError,
    ResultTimeout,
    SchemaOutdated,
    StoreUnavailable,
)
from penstock.job import Job, JobState, Ledger
from penstock.transport.progress import Entry

ME = "me"
MARK = (ME, 1, 0)


def make_job(
    id: str,
    state: str = "queued",
    *,
    attempt: int = 1,
    claimed_at: float | None = None,
    settled_at: float | None = None,
    output: Any = None,
) -> Job:
    return Job(
        id=id, model="m", version="1", lane="interactive", tenant="default", priority=0, state=JobState(state),
        attempt=attempt, input=None, output=output, error=None, available_at=0.0, deadline_at=None, timeout_s=None,
        idempotency_key=None, webhook=None, reply_to=ME,
        ledger=Ledger(accepted_at=0.0, claimed_at=claimed_at, settled_at=settled_at),
    )  # fmt: skip


class Push:
    """The part of ``push`` that flows see."""

    def __init__(self) -> None:
        self.mark: tuple[str, int, int] | None = MARK
        self.inbox = Inbox()

    @property
    def connected(self) -> bool:
        return self.mark is not None

    def done(self, ticket: Ticket) -> None:
        self.inbox.close(ticket)


class Rig:
    """Drives a flow: answers what is a matter of course, and stops at what a test wants to see."""

    def __init__(self) -> None:
        self.push = Push()
        self.sql: dict[str, Job] = {}
        self.reads: list[list[str]] = []
        self.pieces: list[Entry] = []
        self.runtime: Any = SimpleNamespace(
            client_id=ME,
            push=self.push,
            store=SimpleNamespace(get_many=self.get_many, get=self.get),
            progress=SimpleNamespace(read=self.read),
        )
        self.ticket: Ticket | None = None
        self.emitted: list[Any] = []

    def get_many(self, ids: Sequence[str]) -> dict[str, Job]:
        self.reads.append(list(ids))
        return {id: self.sql[id] for id in ids if id in self.sql}

    def get(self, id: str) -> Job:
        return self.sql[id]

    def read(self, id: str, attempt: int, index: int, most: int) -> list[Entry]:
        return [piece for piece in self.pieces if (piece.attempt, piece.index) >= (attempt, index)][:most]

    def start(self, flow: Any) -> Any:
        self.flow = flow
        return self.go(None)

    def go(self, answer: Any = None, *, error: BaseException | None = None) -> Any:
        """To the next ``Wait`` (returned), or to the end (``None``)."""
        try:
            effect = self.flow.throw(error) if error is not None else self.flow.send(answer)
            while True:
                if isinstance(effect, Wait):
                    return effect
                answer = None
                if isinstance(effect, Emit):
                    self.emitted.append(effect.value)
                elif isinstance(effect, Open):
                    answer = self.ticket = Ticket(effect.ids, foreign=effect.foreign, wake=lambda: None)
                    self.push.inbox.open(self.ticket)
                elif isinstance(effect, Call):
                    try:
                        answer = effect.function(*effect.args)
                    except StoreUnavailable as raised:
                        effect = self.flow.throw(raised)
                        continue
                effect = self.flow.send(answer)
        except StopIteration:
            return None

    def tell(self, *ids: str, **fields: Any) -> None:
        records = [{"id": id, "state": "succeeded", "output": id.upper(), **fields} for id in ids]
        self.push.inbox.deliver(msgspec.json.encode(records))


def own(*ids: str) -> list[Handle]:
    return [Handle(id, reply_to=ME, mark=MARK) for id in ids]


def test_what_was_submitted_under_this_subscription_is_not_read() -> None:
    rig = Rig()
    handles = own("a", "b")
    assert isinstance(rig.start(completed(rig.runtime, handles, None)), Wait)
    assert rig.ticket is not None
    assert not rig.ticket.foreign
    rig.tell("b")
    rig.go()
    rig.tell("a")
    assert rig.go() is None
    assert rig.emitted == [handles[1], handles[0]]
    assert handles[0].value() == "A"
    assert rig.reads == []
    assert len(rig.push.inbox) == 0


def test_others_are_read_first_and_emitted_in_the_order_of_their_ends() -> None:
    rig = Rig()
    rig.sql = {
        "a": make_job("a", "succeeded", settled_at=2.0, output=1),
        "b": make_job("b", "failed", settled_at=1.0),
        "c": make_job("c"),
    }
    handles = [Handle("a", reply_to=ME, mark=(ME, 1, 5)), Handle("b"), Handle("c", reply_to=ME)]
    rig.start(completed(rig.runtime, handles, None))
    assert rig.ticket is not None
    assert rig.ticket.foreign
    assert rig.emitted == [handles[1], handles[0]]
    assert rig.reads == [["a", "b", "c"]]


def test_without_a_subscription_sql_is_read_often() -> None:
    rig = Rig()
    rig.push.mark = None
    rig.sql = {"a": make_job("a")}
    wait = rig.start(completed(rig.runtime, own("a"), None))
    assert wait.timeout_s == _flow.UNPUSHED_S
    rig.sql["a"] = make_job("a", "succeeded", settled_at=1.0)
    assert rig.go() is None  # nothing came: it looks
    assert len(rig.reads) == 2


def test_silence_and_gaps_and_long_outputs_make_it_read() -> None:
    rig = Rig()
    rig.sql = {"a": make_job("a"), "b": make_job("b")}
    assert rig.start(completed(rig.runtime, own("a", "b"), None)).timeout_s == _flow.SAFETY_S
    rig.go()
    assert rig.reads == [["a", "b"]]
    assert rig.ticket is not None
    rig.ticket.gap()
    rig.go()
    assert rig.reads == [["a", "b"]] * 2
    rig.sql["b"] = make_job("b", "succeeded", settled_at=1.0, output="long")
    rig.push.inbox.deliver(b'[{"id":"b","state":"succeeded"}]')
    rig.go()
    assert rig.reads[2:] == [["b"]]
    assert [handle.value() for handle in rig.emitted] == ["long"]


def test_the_time_is_over_after_a_last_look() -> None:
    rig = Rig()
    rig.sql = {"a": make_job("a")}
    with pytest.raises(ResultTimeout, match="job a has not ended"):
        rig.start(completed(rig.runtime, own("a"), 0))
    assert rig.reads == [["a"]]
    rig = Rig()
    rig.sql = {"a": make_job("a", "succeeded", settled_at=1.0, output=3)}
    assert rig.start(completed(rig.runtime, own("a"), 0)) is None
    assert rig.emitted[0].value() == 3


def test_a_database_that_is_away_is_borne_with_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    def away(ids: Sequence[str]) -> dict[str, Job]:
        rig.reads.append(list(ids))
        raise StoreUnavailable("away")

    rig.runtime.store.get_many = away
    wait = rig.start(completed(rig.runtime, [Handle("a", reply_to=ME)], None))
    assert wait.timeout_s == _flow.AWAY_S
    rig.go()
    assert len(rig.reads) == 2
    rig.tell("a")
    assert rig.go() is None  # it came by push
    assert rig.emitted[0].value() == "A"

    monkeypatch.setattr(_flow, "PATIENCE_S", 0.0)
    rig.start(completed(rig.runtime, [Handle("b", reply_to=ME)], None))
    with pytest.raises(StoreUnavailable):
        rig.go()
    rig.start(completed(rig.runtime, [Handle("b", reply_to=ME)], None))
    assert len(rig.push.inbox) == 1

    def outdated(ids: Sequence[str]) -> dict[str, Job]:
        raise SchemaOutdated("old")

    rig.runtime.store.get_many = outdated
    with pytest.raises(SchemaOutdated):
        rig.start(completed(rig.runtime, [Handle("b", reply_to=ME)], None))


def test_unknown_jobs_and_a_closed_client_are_errors() -> None:
    rig = Rig()
    with pytest.raises(JobNotFound, match="there is no job a"):
        rig.start(completed(rig.runtime, [Handle("a")], None))
    assert len(rig.push.inbox) == 0
    rig.start(completed(rig.runtime, own("b"), None))
    rig.push.inbox.end()
    with pytest.raises(PenstockError, match="closed"):
        rig.go()


def test_two_handles_of_one_job_both_learn_of_its_end() -> None:
    rig = Rig()
    handles = own("a", "a")
    rig.start(completed(rig.runtime, handles, None))
    rig.tell("a")
    assert rig.go() is None
    assert rig.emitted == handles
    assert [handle.value() for handle in handles] == ["A", "A"]


def test_what_has_ended_costs_nothing() -> None:
    rig = Rig()
    handle = Handle("a", job=make_job("a", "succeeded", settled_at=1.0))
    assert rig.start(completed(rig.runtime, [handle], None)) is None
    assert rig.ticket is None


def test_a_stream_ends_behind_the_last_event() -> None:
    rig = Rig()
    rig.sql = {"a": make_job("a")}
    rig.start(streamed(rig.runtime, Handle("a"), None))
    assert [event.state for event in rig.emitted] == ["accepted", "queued"]
    rig.sql = {"a": make_job("a", "succeeded", settled_at=1.0, output=1)}
    assert rig.ticket is not None
    rig.ticket.hint("a")
    assert rig.go() is None
    assert [event.state for event in rig.emitted] == ["accepted", "queued", "succeeded"]


def running(attempt: int) -> Job:
    return make_job("a", "running", attempt=attempt, claimed_at=1.0)


def told(rig: Rig) -> list[Any]:
    return [
        (e.data["attempt"], e.data["index"]) if e.kind == "progress" else f"{e.state} {e.data['attempt']}"
        for e in rig.emitted
    ]


def test_partial_output_needs_no_look_at_sql() -> None:
    rig = Rig()
    rig.sql = {"a": running(1)}
    rig.pieces = [Entry(1, 0, 2.0, "x")]
    rig.start(streamed(rig.runtime, Handle("a"), None))
    rig.sql = {}
    rig.pieces.append(Entry(1, 1, 2.0, "y"))
    assert rig.ticket is not None
    rig.ticket.advance()
    rig.go()
    assert told(rig) == ["accepted 0", "running 1", (1, 0), (1, 1)]


def test_a_new_attempt_begins_before_its_partial_output() -> None:
    """The news of a piece of attempt 2 comes before that of its start."""
    rig = Rig()
    rig.sql = {"a": running(1)}
    rig.pieces = [Entry(1, 0, 2.0, "x")]
    rig.start(streamed(rig.runtime, Handle("a"), None))
    rig.sql = {"a": running(2)}
    rig.pieces.append(Entry(2, 0, 3.0, "x"))
    assert rig.ticket is not None
    rig.ticket.advance()
    rig.go()
    assert told(rig)[1:] == ["running 1", (1, 0), "running 2", (2, 0)]


def test_a_long_history_is_read_in_pages_and_the_end_comes_last() -> None:
    rig = Rig()
    rig.sql = {"a": make_job("a", "succeeded", attempt=1, claimed_at=1.0, settled_at=9.0)}
    rig.pieces = [Entry(1, index, 2.0, index) for index in range(2 * PIECES)]
    assert rig.start(streamed(rig.runtime, Handle("a"), "100")) is None
    assert told(rig) == [*((1, index) for index in range(2 * PIECES)), "succeeded 1"]


def test_a_stream_without_a_broker_has_the_states() -> None:
    rig = Rig()

    def away(*_: Any) -> list[Entry]:
        raise BrokerUnavailable("away")

    rig.runtime.progress.read = away
    rig.sql = {"a": make_job("a", "succeeded", attempt=1, claimed_at=1.0, settled_at=9.0)}
    assert rig.start(streamed(rig.runtime, Handle("a"), None)) is None
    assert told(rig) == ["accepted 0", "running 1", "succeeded 1"]


def test_the_error_of_a_run_names_the_step() -> None:
    error = {"code": "model_raised", "message": "ValueError: no", "step": "embed[7]"}
    assert "job 1 failed in step 'embed[7]': ValueError: no" in str(unsuccessful("1", JobState.FAILED, error))
    assert "job 1 failed: ValueError: no" in str(unsuccessful("1", JobState.FAILED, error | {"step": None}))
