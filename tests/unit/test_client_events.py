"""A job's story, told from snapshots."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.client.events import events_of, of_step, wanted
from penstock.errors import InvalidInput
from penstock.job import Job, JobState, Ledger
from penstock.transport.progress import Entry, Part


def make_job(state: str = "accepted", *, attempt: int = 0, ledger: dict[str, Any] | None = None, **fields: Any) -> Job:
    defaults: dict[str, Any] = {
        "id": "a", "model": "m", "version": "1", "lane": "interactive", "tenant": "default", "priority": 0,
        "input": 1, "output": None, "error": None, "available_at": 1.0, "deadline_at": None, "timeout_s": None,
        "idempotency_key": None, "webhook": None,
    }  # fmt: skip
    return Job(
        **(defaults | fields),
        state=JobState(state),
        attempt=attempt,
        ledger=Ledger(accepted_at=1.0, **(ledger or {})),
    )


RUN = {"queued_at": 2.0, "claimed_at": 3.0, "started_at": 3.5}
LIFE = [
    make_job(),
    make_job("queued", ledger={"queued_at": 2.0}),
    make_job("running", attempt=1, ledger=RUN, worker="w"),
    make_job("succeeded", attempt=1, ledger=RUN | {"settled_at": 4.0}, output=7),
]


def states(job: Job, after: str | None = None) -> list[str]:
    return [event.state.value for event in events_of(job, after)]


def test_the_last_snapshot_tells_the_whole_life() -> None:
    assert states(LIFE[-1]) == ["accepted", "queued", "running", "succeeded"]
    *_, last = events_of(LIFE[-1])
    assert last.kind == "state"
    assert last.data["output"] == 7
    assert last.at is not None
    assert last.at.timestamp() == 4.0


def test_snapshot_by_snapshot_each_event_comes_once() -> None:
    seen, cursor = [], None
    for job in [*LIFE, LIFE[-1]]:
        for event in events_of(job, cursor):
            seen.append(event.state.value)
            cursor = event.cursor
    assert seen == ["accepted", "queued", "running", "succeeded"]


def test_any_cursor_resumes_behind_its_event() -> None:
    events = list(events_of(LIFE[-1]))
    for position, event in enumerate(events):
        assert list(events_of(LIFE[-1], event.cursor)) == events[position + 1 :]


def test_retries_are_told_in_order() -> None:
    again = make_job("accepted", attempt=1, ledger=RUN, error={"code": "model_raised"}, available_at=9.0)
    second = make_job("running", attempt=2, ledger=RUN)
    failed = make_job("failed", attempt=2, ledger=RUN | {"settled_at": 8.0}, error={"code": "model_raised"})
    seen, cursor = [], None
    for job in [LIFE[2], again, second, failed]:
        for event in events_of(job, cursor):
            seen.append((event.state.value, event.data["attempt"]))
            cursor = event.cursor
    assert seen == [("accepted", 0), ("queued", 0), ("running", 1), ("accepted", 1), ("running", 2), ("failed", 2)]


def test_a_job_cancelled_before_its_start_and_replayed() -> None:
    cancelled = make_job("cancelled", ledger={"settled_at": 2.0})
    assert states(cancelled) == ["accepted", "cancelled"]
    *_, last = events_of(cancelled)
    assert states(make_job(), last.cursor) == ["accepted"]


@pytest.mark.parametrize("cursor", ["yesterday", "", "100.3", "105.", "105.x", "105.1.2", "-1"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        list(events_of(LIFE[0], cursor))


PIECES = [Entry(1, 0, 3.6, "a"), Entry(1, 1, 3.7, "b")]


def test_partial_output_comes_between_the_start_and_the_end_and_any_cursor_resumes() -> None:
    events = list(events_of(LIFE[-1], None, PIECES))
    assert [e.data.get("progress", e.state.value) for e in events] == [
        "accepted", "queued", "running", "a", "b", "succeeded",
    ]  # fmt: skip
    for place, event in enumerate(events):
        attempt, index = wanted(LIFE[-1], event.cursor)
        kept = [piece for piece in PIECES if (piece.attempt, piece.index) >= (attempt, index)]
        assert list(events_of(LIFE[-1], event.cursor, kept)) == events[place + 1 :]


@pytest.mark.parametrize(
    ("after", "indices", "missed"),
    [(None, [3, 4], [3, 0]), ("105.2", [3, 4], [0, 0]), ("105.0", [3], [2]), ("100", [0, 2], [0, 1])],
)
def test_missing_pieces_are_counted(after: str | None, indices: list[int], missed: list[int]) -> None:
    pieces = [Entry(1, index, 3.6, "x") for index in indices]
    found = [e for e in events_of(LIFE[2], after, pieces) if e.kind == "progress"]
    assert [e.data.get("missed", 0) for e in found] == missed


def test_a_piece_of_an_attempt_that_the_row_does_not_know_waits() -> None:
    assert [e.kind for e in events_of(LIFE[2], "100", [*PIECES, Entry(2, 0, 5.0, "a")])] == ["progress"] * 2


def test_a_replay_does_not_tell_old_pieces_again() -> None:
    *_, last = events_of(LIFE[-1])
    again = make_job("accepted", attempt=1, ledger=RUN)
    assert wanted(again, last.cursor)[1] > 10
    assert [e.kind for e in events_of(again, last.cursor, PIECES)] == ["state"]


def test_a_run_is_told_by_its_tries() -> None:
    """It is nobody's attempt: a retry raises its generation."""
    begun = {"started_at": 2.0}
    waiting = make_job(graph="d")
    running = make_job("running", graph="d", ledger=begun)
    failed = make_job("failed", graph="d", ledger=begun | {"settled_at": 3.0})
    again = make_job("failed", graph="d", generation=1, ledger={"started_at": 4.0, "settled_at": 5.0})
    assert [states(job) for job in (waiting, running, failed)] == [
        ["accepted"],
        ["accepted", "running"],
        ["accepted", "running", "failed"],
    ]
    *_, last = events_of(failed)
    assert states(again, last.cursor) == ["running", "failed"]
    never = make_job("cancelled", graph="d", ledger={"settled_at": 3.0})
    *_, last = events_of(never)
    assert states(again, last.cursor) == ["running", "failed"]


def part(place: int, path: str, index: int, *, run: int = 1, attempt: int = 1, job: str = "") -> Entry:
    return Entry(run, place, 3.0, "x", Part(path, job or path, attempt, index))


def test_pieces_of_a_run_say_whose_they_are_and_any_cursor_resumes() -> None:
    """Places are no numbers of pieces: what a step has missed shows in its own."""
    run = make_job("succeeded", graph="d", ledger={"started_at": 2.0, "settled_at": 9.0})
    entries = [
        part(70, "a", 1),
        part(71, "b[3]", 0),
        part(72, "a", 2),
        part(79, "b[3]", 4),
        part(80, "a", 0, attempt=2),
    ]
    events = list(events_of(run, None, entries, told={}))
    assert [
        (e.data["step"], e.data["attempt"], e.data["index"], e.data.get("missed")) for e in events if e.kind != "state"
    ] == [("a", 1, 1, 1), ("b[3]", 1, 0, None), ("a", 1, 2, None), ("b[3]", 1, 4, 3), ("a", 2, 0, None)]
    assert [e.state for e in (events[1], events[-1])] == ["running", "succeeded"]
    for at, event in enumerate(events):
        attempt, place = wanted(run, event.cursor)
        kept = [entry for entry in entries if (entry.attempt, entry.index) >= (attempt, place)]
        assert [e.cursor for e in events_of(run, event.cursor, kept)] == [e.cursor for e in events[at + 1 :]]


def test_pieces_of_a_run_belong_to_its_tries() -> None:
    again = make_job("running", graph="d", generation=1, ledger={"started_at": 4.0})
    entries = [part(0, "a", 0), part(1, "a", 0, run=2), part(2, "a", 0, run=3)]
    assert [e.kind for e in events_of(again, "100", entries)] == ["progress", "state", "progress"]
    failed = make_job("failed", graph="d", ledger={"started_at": 2.0, "settled_at": 3.0})
    *_, last = events_of(failed, None, entries)
    assert [e.kind for e in events_of(again, last.cursor, entries)] == ["state", "progress"]


@pytest.mark.parametrize(
    ("path", "name", "is_of"),
    [
        ("write", "write", True),
        ("write[3]", "write", True),
        ("write[3]", "write[3]", True),
        ("write[31]", "write[3]", False),
        ("write-2", "write", False),
        ("plan/write", "plan", True),
        ("plan[2]/write", "plan[2]", True),
        ("plan/write", "write", False),
    ],
)
def test_a_step_is_named_by_itself_or_by_what_it_is_in(path: str, name: str, is_of: bool) -> None:
    assert of_step(path, name) is is_of
