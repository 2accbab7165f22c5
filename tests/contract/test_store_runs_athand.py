"""What travels with a step's message is what SQL says of it at its claim; neither what is long, nor what takes work."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.job import JobState, NewJob, new_id
from penstock.pipelines import graph as graphs
from penstock.pipelines.graph import Graph
from penstock.store import Store
from penstock.store.runs import athand
from penstock.transport.message import MAX_STEP_BODY_BYTES, decode, encode
from tests.fixtures.runs import begin, claimed, finish, graph, open_steps, out, step, succeed
from tests.fixtures.store import T0, W, make_job

X = {"$in": "x"}
LONG = "x" * 700


def echo(_: str, value: Any) -> Any:
    return value


def encode_text(given: str) -> bytes:
    """The body that has it, as it stands in the message."""
    return msgspec.json.encode(f'[[{given}],{{}},{{"callbacks":null,"errbacks":null,"chain":null,"chord":null}}]')


def told_of(store: Store) -> dict[str, NewJob]:
    """Released steps, by id: those that a worker would publish."""
    told: dict[str, NewJob] = {}
    store.publish_by(lambda jobs: told.update((job.id, job) for job in jobs), lease_s=5.0)
    return told


#: A graph, what it is given, and the paths of which nothing travels.
CASES: dict[str, tuple[Graph, Any, set[str]]] = {
    "inputs": (graph(step("a", X), step("b", {"n": X, "l": [1, None, X]}), output=[out("a"), out("b")]), 'ü"\\', set()),
    "outputs": (graph(step("a", X), step("b", {"q": {"$get": [out("a"), 1]}}), output=out("b")), [1, {"k": 2}], set()),
    "words": (
        graph(step("a", {"$lit": {"$in": "x"}}), step("b", {"$object": ["$k", out("a")]}), output=out("b")),
        1,
        set(),
    ),
    "two parents at once": (
        graph(step("a", X), step("b", X), step("c", [out("a"), out("b")]), output=out("c")),
        1,
        set(),
    ),
    "elements": (graph(step("m", {"$item": 0}, maps=True, over=X), output=out("m")), [1, "two", None, [3]], set()),
    "of elements": (
        graph(step("a", X), step("m", [{"$item": 0}, X, out("a")], maps=True, over=out("a")), output=out("m")),
        [1, 2],
        set(),
    ),
    "a map of a map": (
        graph(
            step("m", {"$item": 0}, maps=True, over=X),
            step("n", {"$item": 0}, maps=True, over=out("m")),
            step("o", [{"$item": 0}, {"$get": [X, 0]}], maps=True, over=out("n")),
            output=out("o"),
        ),
        [1, "two", LONG],
        {"m[2]", "n[2]", "o[2]"},
    ),
    "a join": (
        graph(step("m", {"$item": 0}, maps=True, over=X), step("j", out("m")), output=out("j")),
        [1, 2],
        {"j"},
    ),
    "long": (graph(step("a", X), step("b", {"$get": [out("a"), 0]}), output=out("b")), [LONG, 1], {"a", "b"}),
    "short of long": (graph(step("a", X), step("b", {"$get": [out("a"), 1]}), output=out("b")), [LONG, 1], {"a"}),
    "arithmetic": (graph(step("a", {"$op": ["add", X, 1]}), step("b", out("a")), output=out("b")), 1, {"a"}),
    "what stands in": (graph(step("a", X), step("b", {"$else": [out("a"), X]}), output=out("b")), 1, {"b"}),
    "a choice": (
        graph(step("a", X), step("b", {"$if": [{"$op": ["gt", X, 0]}, out("a"), 0]}), output=out("b")),
        1,
        {"b"},
    ),
    "no value": (graph(step("a", {"$get": [X, "k"]}), output=out("a")), 1, {"a"}),
    "many parts": (graph(step("a", [X] * 64), output=out("a")), 1, {"a"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_travels_is_what_the_claim_says(store: Store, case: str) -> None:
    of, value, absent = CASES[case]
    told = told_of(store)
    run = begin(store, of, {"x": value})
    seen: dict[str, str | None] = {}
    while waiting := open_steps(store, run):
        for id, (_, given) in claimed(store, list(waiting.values())).items():
            job = told[id]
            seen[job.path or ""] = job.given
            if job.given is not None:
                assert msgspec.json.decode(job.given) == given
            assert store.release([(id, 1)], worker=W, now=T0)
        succeed(store, list(waiting.values()), echo)
    assert {path for path, given in seen.items() if given is None} == absent
    assert store.get(run).state is JobState.SUCCEEDED


def test_a_parent_that_ended_before_is_read_by_the_claim(store: Store) -> None:
    told = told_of(store)
    run = begin(store, graph(step("a", X), step("b", X), step("c", [out("a"), out("b")]), output=out("c")))
    succeed(store, [open_steps(store, run)["a"]], echo)
    succeed(store, [open_steps(store, run)["b"]], echo)
    assert told[open_steps(store, run)["c"]].given is None
    assert finish(store, run, echo).output == [1, 1]


def test_a_step_that_begins_anew_has_its_input_from_sql(store: Store) -> None:
    """Its first message is lost, say; what the dispatcher takes from SQL has nothing at hand."""
    told_of(store)
    begin(store, graph(step("a", X), output=out("a")))
    [job] = store.take_due(now=T0 + 6, limit=10, lease_s=1)
    read = decode(encode(job, "penstock"))
    assert read is not None and read.input is None and not read.step


@pytest.mark.parametrize("text", ["x" * 590, '"' * 290, "ü" * 290, "\x01" * 90])
def test_its_message_says_that_it_is_a_step_and_is_never_longer_than_2_kib(text: str) -> None:
    given = msgspec.json.encode(text).decode()
    job = make_job(
        model="a-model-with-a-long-name",
        run_id=new_id(),
        path="a_step_with_a_longer_name-17[12345]",
        generation=0,
        given=given,
        input="[]",
        trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        deadline_at=1_700_000_000.123456,
        timeout_s=600.0,
        tenant="a-tenant-with-a-longer-name",
    )
    raw = encode(job, "penstock")
    read = decode(raw)
    assert len(raw) <= 2048 and read is not None
    assert (read.input, read.step) in ((given, True), (None, False))
    assert read.step == (len(encode_text(given)) <= MAX_STEP_BODY_BYTES), "what is short travels"


def test_a_plain_job_is_no_step() -> None:
    read = decode(encode(make_job(input="1"), "penstock"))
    assert read is not None and read.input == "1" and not read.step


@pytest.mark.parametrize("constant", [LONG, {"$lit": [LONG]}, ["x" * 300, {"$lit": "x" * 301}]])
def test_a_long_constant_is_not_written_for_each_element(
    store: Store, monkeypatch: pytest.MonkeyPatch, constant: Any
) -> None:
    """Nobody else writes meanwhile."""
    worked_out: list[Any] = []

    def input_of(*args: Any, **given: Any) -> Any:
        worked_out.append(args)
        return graphs.input_of(*args, **given)

    monkeypatch.setattr(athand, "input_of", input_of)
    told = told_of(store)
    of = graph(step("m", [{"$item": 0}, constant], maps=True, over=X), output=out("m"))
    run = begin(store, of, {"x": [1, 2, 3]})
    assert [job.given for job in told.values()] == [None] * 3 and worked_out == []
    assert len(finish(store, run, echo).output) == 3
