"""Graphs of strangers do not hold up others: what one transaction decides on is bounded, and nothing of it is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from penstock.job import JobState, Outcome
from penstock.pipelines import memory
from penstock.pipelines.effort import MAX_OPERATIONS
from penstock.pipelines.graph import Graph, Step, verify
from penstock.store import Store
from penstock.store.runs import conclude, maps, moves, values
from penstock.store.runs.moves import STEP, WAIT
from penstock.store.runs.stepstates import LOOK
from penstock.store.runs.tend import AT_IT_S
from penstock.store.runs.todo import BEGINNING, DECIDING
from penstock.store.session import Session
from tests.fixtures import hostilegraphs
from tests.fixtures.hostilegraphs import X, either, op
from tests.fixtures.runs import begin, fail, graph, new_run, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W, register

#: Steps that a worker settles at once.
BATCH = 128


@pytest.fixture
def on_sqlite(sqlite_url: str) -> Iterator[Store]:
    """Where a long transaction holds up everybody."""
    store = Store.open(sqlite_url)
    register(store, W)
    yield store
    store.close()


def one(*_: Any) -> int:
    return 1


def come_to_an_end(store: Store, run: str) -> JobState:
    while waiting := list(open_steps(store, run).values()):
        succeed(store, waiting[:BATCH], one)
    return store.get(run).state


def are_short(sessions: list[Session]) -> None:
    """A decision that was begun is made, and a step that was begun is stored."""
    assert max(session.spent for session in sessions) <= DECIDING + MAX_OPERATIONS
    most = BEGINNING + max(WAIT, STEP * sessions[0].bulk_rows)
    assert max(session.begun for session in sessions) <= most
    assert max(len(session.released) for session in sessions) * STEP <= most


@pytest.mark.parametrize("name", hostilegraphs.GRAPHS)
def test_no_transaction_is_long(name: str, on_sqlite: Store, sessions: list[Session]) -> None:
    of = hostilegraphs.GRAPHS[name]()
    verify(of)
    run = begin(on_sqlite, of)
    assert come_to_an_end(on_sqlite, run) is JobState.SUCCEEDED, on_sqlite.get(run).error
    assert len(steps(on_sqlite, run)) == len(of.steps), "each step has begun, once"
    are_short(sessions)


@pytest.mark.parametrize("name", hostilegraphs.REFUSED)
def test_what_is_too_much_work_ends_the_run_and_says_so(name: str, on_sqlite: Store, sessions: list[Session]) -> None:
    of = hostilegraphs.REFUSED[name]()
    verify(of)
    run = begin(on_sqlite, of)
    assert come_to_an_end(on_sqlite, run) is JobState.FAILED
    error = on_sqlite.get(run).error
    assert error is not None and error["code"] in ("too_much_work", "no_value")
    assert f"{MAX_OPERATIONS:,}" in error["message"] or "16,000,000" in error["message"]
    are_short(sessions)


def test_many_runs_are_not_begun_by_one_transaction(store: Store, sessions: list[Session]) -> None:
    of = graph(*(step(f"s{number}", X) for number in range(100)), output=X)
    jobs = [new_run(of) for _ in range(40)]
    store.insert(jobs)
    are_short(sessions)
    assert len(sessions) > 1
    assert all(len(open_steps(store, job.id)) == 100 for job in jobs)


def test_runs_that_are_left_are_decided_on_together(store: Store, sessions: list[Session]) -> None:
    """One by one, their steps would begin one by one, and run in batches of one."""
    of = graph(step("a", X), *(step(f"b{n}", out("a")) for n in range(8)), output=X)
    jobs = [new_run(of) for _ in range(200)]
    store.insert(jobs)
    waiting = [id for job in jobs for id in open_steps(store, job.id).values()]
    sessions.clear()
    succeed(store, waiting, one)
    are_short(sessions)
    assert len(sessions[0].todo) > 50, "there is no time for all of them"
    assert len(sessions) <= 5 and nothing_is_left(store)
    assert all(len(open_steps(store, job.id)) == 8 for job in jobs)


def wide(steps: int, **fields: Any) -> Graph:
    """All of its steps can start at once."""
    made = (step(f"s{number}", X, model="m", **fields) for number in range(steps))
    return graph(*made, output=X)


WAITS = graph(*(Step(name=f"w{n}", kind="wait", signal=f"w{n}", timeout=60, input=[X]) for n in range(300)), output=X)
LISTS = wide(60, maps=True, over=list(range(100)))


@pytest.mark.parametrize(
    ("of", "runs", "each"),
    [
        (wide(1), 400, 1),
        (wide(20), 100, 20),
        (wide(100), 40, 100),
        (wide(1900), 3, 1900),
        (WAITS, 5, 300),
        (LISTS, 2, 6000),
    ],
)
def test_a_transaction_stores_few_rows_however_wide_the_runs_within_a_run_are(
    of: Graph, runs: int, each: int, on_sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About 60 µs each, while nobody else can write."""
    stored: Counter[Session] = Counter()
    insert = Session.insert

    def counted(session: Session, spell: Any, rows: Any) -> None:
        stored[session] += len(rows)
        insert(session, spell, rows)

    monkeypatch.setattr(Session, "insert", counted)
    within = Step(name="r", kind="run", graph=of, input={"x": {"$item": 0}}, maps=True, over=list(range(runs)))
    run = begin(on_sqlite, graph(within, output=out("r")))
    assert max(stored.values()) <= 800
    assert len(stored) <= 4 + sum(stored.values()) // 60, "nor are they cut into very many"
    for job in on_sqlite.list(run=run, limit=1000):
        assert len({one.path for one in on_sqlite.list(run=job.id, limit=10_000)}) == each


# Values -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> int:
    """How much may be read of outputs: little."""
    monkeypatch.setattr(values, "MOST_READ", 1000)
    return 1000


def text(length: int) -> Any:
    return lambda *_: "x" * (length - 2)  # and its quotes


LONG = [step(name, X) for name in ("a", "b", "c")]
ALL = [out(each.name) for each in LONG]
#: What reads them: a condition, the output, what a race gives, what a map is called for, and each in a choice.
READERS = {
    "condition": graph(*LONG, output=either(op("eq", ALL, 1))),
    "output": graph(*LONG, output=[{"$get": [each, 0]} for each in ALL]),
    "pick": graph(*LONG, Step(name="p", kind="pick", input=ALL), output=X),
    "map": graph(*LONG, step("m", {"$item": 0}, maps=True, over=ALL), output=X),
    "of a map": graph(step("a", X), step("m", {"$item": 0}, maps=True, over=[1, 2, 3]), output=op("eq", out("m"), 1)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("each", [333, 334])
def test_outputs_are_read_as_far_as_a_decision_may(store: Store, read: int, reader: str, each: int) -> None:
    run = begin(store, READERS[reader])
    while waiting := open_steps(store, run):
        succeed(store, list(waiting.values()), text(each))
        if reader == "map" and "a" not in waiting:
            return  # its elements are no decision's
        if reader == "map" and each == 333:
            assert sorted(open_steps(store, run)) == ["m[0]", "m[1]", "m[2]"]
    job = store.get(run)
    if 3 * each <= read:
        assert job.state is JobState.SUCCEEDED, job.error
    else:
        assert job.error is not None and job.error["code"] == "too_much_work"
        assert "1,000 characters" in job.error["message"] and "MAX_OUTPUT_BYTES" in job.error["message"]


def test_one_output_may_be_read_whatever_is_allowed_for_it(store: Store, read: int) -> None:
    store.limit_outputs(5000)
    run = begin(store, graph(step("a", X), output=op("ne", out("a"), 1)))
    succeed(store, list(open_steps(store, run).values()), text(4000))
    assert store.get(run).output is True


def test_runs_that_end_together_have_their_outputs_read_in_turn(
    store: Store, read: int, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they are too long; a run that is too long by itself is no other's fault."""
    monkeypatch.setattr(moves, "DECIDING", 1)
    of = graph(step("a", X), step("b", X), output=[op("ne", out("a"), 1), out("b")])
    runs = [begin(store, of) for _ in range(3)]
    first = [open_steps(store, run) for run in runs]
    succeed(store, [each["b"] for each in first], one)
    sessions.clear()
    rows = store.claim(ids := [each["a"] for each in first], worker=W, now=T0, need_input=ids).claimed
    lengths = dict(zip(ids, (600, 2000, 600), strict=True))
    outcomes = [
        Outcome(id=id, attempt=row.attempt, state=JobState.SUCCEEDED, output=f'"{"x" * lengths[id]}"', step=True)
        for id, row in rows.items()
    ]
    store.settle(outcomes, worker=W, now=T0)
    states = [store.get(run).state for run in runs]
    assert states == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert len(sessions) == 3, "a transaction for each"


@pytest.mark.parametrize(("most", "there"), [(30, True), (29, False), (0, False)])
def test_rows_are_read_to_a_length(store: Store, most: int, there: bool) -> None:
    run = begin(store, graph(*LONG, output=X))
    succeed(store, list(open_steps(store, run).values()), text(10))
    statement = "SELECT path, output FROM penstock_job WHERE run_id = :run AND output IS NOT NULL"
    with store._db.read() as session:
        rows = session.most(statement, {"run": run}, most)
        assert session.one("SELECT 1") == (1,), "nothing is left of it"
    found = None if rows is None else sorted(rows)
    assert found == ([(each.name, '"xxxxxxxx"') for each in LONG] if there else None)


# Whoever decides dies -----------------------------------------------------------------------------------------------


def die(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def nap(name: str, after: Any = None) -> Step:
    return Step(name=name, kind="sleep", input=[0, after])


CHAIN = [nap("n0"), *(nap(f"n{number}", out(f"n{number - 1}")) for number in range(1, 6))]
PUT_OFF = {
    "side by side": graph(*(step(f"s{number}", X) for number in range(5)), output=[out("s0"), out("s4")]),
    "sleeps": graph(*CHAIN, step("a", out("n5")), output=out("a")),
    "sleeps and a choice": graph(*CHAIN, step("a", X), output=either(op("eq", out("n5"), None), out("a"))),
    "sleeps alone": graph(*CHAIN, output=[X, out("n5")]),
    "maps of nothing beside others": graph(
        step("a", X),
        step("m", [{"$item": 0}, out("a")], maps=True, over=[]),
        step("b", out("a")),
        step("n", {"$item": 0}, maps=True, over=out("m")),
        output=[out("n"), out("b")],
    ),
    "maps of nothing": graph(
        step("a", X),
        step("m", {"$item": 0}, maps=True, over=[]),
        step("n", {"$item": 0}, maps=True, over=out("m")),
        step("b", [out("a"), out("n")]),
        output=out("b"),
    ),
    "maps": graph(
        step("m", {"$item": 0}, maps=True, over=[1, 2, 3]),
        step("n", {"$item": 0}, maps=True, over=out("m")),
        output=out("n"),
    ),
    "maps with bounds": graph(
        step("m", {"$item": 0}, maps=True, over=[1, 2, 3, 4, 5], max_parallel=2),
        step("o", {"$item": 0}, maps=True, over=[1, 2, 3], max_parallel=1),
        step("n", {"$item": 0}, maps=True, over=out("m"), max_parallel=3),
        output=[out("n"), out("o")],
    ),
    "a map with a bound and a choice": graph(
        *CHAIN,
        step("m", {"$item": 0}, maps=True, over=[1, 2, 3], max_parallel=2),
        output=either(op("eq", out("n5"), None), out("m")),
    ),
    "picks": graph(
        step("a", X),
        Step(name="p", kind="pick", input={"$get": [{"$first": [1, [out("a"), X]]}, 0]}),
        Step(name="q", kind="pick", input={"$get": [{"$first": [1, [out("p"), X]]}, 0]}),
        step("z", out("q")),
        output=out("z"),
    ),
}


def finish_by_dispatchers(store: Store, run: str) -> None:
    """Workers die behind each settlement; dispatchers do, too, behind each of their transactions."""
    now = T0
    for _ in range(200):
        waiting = open_steps(store, run)
        if waiting:
            with suppress(KeyboardInterrupt):
                succeed(store, [next(iter(waiting.values()))], one, now=now)
        if store.get(run).state.is_terminal:
            return
        now += AT_IT_S
        with suppress(KeyboardInterrupt):
            store.tend_runs(now=now, limit=10, heal=False)
    raise AssertionError(f"the run does not end: {steps(store, run)}")


@pytest.mark.parametrize("name", PUT_OFF)
def test_a_run_comes_to_its_end_though_everybody_dies(store: Store, short: pytest.MonkeyPatch, name: str) -> None:
    of = PUT_OFF[name]
    job = new_run(of)
    original = conclude.Behind

    def behind(db: Any, left: Session) -> Any:
        return die() if left.maps or left.todo else original(db, left)

    short.setattr(conclude, "Behind", behind)
    with suppress(KeyboardInterrupt):
        store.insert([job])
    finish_by_dispatchers(store, job.id)
    found = store.get(job.id)
    assert found.state is JobState.SUCCEEDED, found.error
    assert found.output == memory.run(of, {"x": 1}, stand_in)
    each = steps(store, job.id)
    assert len(each) == len(store.list(run=job.id, limit=1000)), "no step has begun twice"


def stand_in(step: Step, items: Any) -> list[Any]:
    return [None if step.kind == "sleep" else 1 for _ in items]


@pytest.mark.parametrize("name", PUT_OFF)
@pytest.mark.parametrize("length", ["short", "long"])
def test_a_run_comes_to_its_end_however_long_transactions_are(
    store: Store, request: pytest.FixtureRequest, sessions: list[Session], name: str, length: str
) -> None:
    if length == "short":
        request.getfixturevalue("short")
    run = begin(store, PUT_OFF[name])
    assert come_to_an_end(store, run) is JobState.SUCCEEDED
    assert store.get(run).output == memory.run(PUT_OFF[name], {"x": 1}, stand_in)
    assert len(sessions) > (2 if length == "short" else 0) and nothing_is_left(store)


def nothing_is_left(store: Store) -> bool:
    with store._db.read() as session:
        return session.all("SELECT * FROM penstock_todo") == []


def test_what_was_left_of_a_run_that_has_ended_is_forgotten(store: Store, short: pytest.MonkeyPatch) -> None:
    job = new_run(PUT_OFF["side by side"])
    with short.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(conclude, "Behind", die)
        store.insert([job])
    assert not nothing_is_left(store)
    store.cancel(job.id, now=T0)
    begun = len(steps(store, job.id))
    store.tend_runs(now=T0 + AT_IT_S, limit=10)
    assert nothing_is_left(store) and len(steps(store, job.id)) == begun


def test_who_has_just_left_something_is_taken_to_be_at_it(store: Store, short: pytest.MonkeyPatch) -> None:
    job = new_run(PUT_OFF["side by side"])
    with short.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(conclude, "Behind", die)
        store.insert([job])
    store.tend_runs(now=T0 + AT_IT_S / 2, limit=10)
    assert len(steps(store, job.id)) == 1
    store.tend_runs(now=T0 + AT_IT_S, limit=10)
    assert len(steps(store, job.id)) == 5


def test_a_run_that_is_gone_leaves_nothing_to_do(store: Store, short: pytest.MonkeyPatch) -> None:
    job = new_run(PUT_OFF["side by side"])
    with short.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(conclude, "Behind", die)
        store.insert([job])
    store.cancel(job.id, now=T0)
    while store.prune(before=T0 + 1, limit=100):
        pass
    assert nothing_is_left(store)


# Losers -------------------------------------------------------------------------------------------------------------


def race(*values: Any) -> Step:
    return Step(name="race", kind="pick", input={"$get": [{"$first": [1, list(values)]}, 0]})


LOST = graph(
    step("quick", X),
    step("slow", X),
    step("wide", {"$item": 0}, maps=True, over={"$in": "xs"}),
    race(out("quick"), out("slow"), out("wide")),
    step("last", out("race")),
    output=out("last"),
    inputs=("x", "xs"),
)


@pytest.mark.parametrize("kept", ["settler", "dispatcher"])
def test_losers_are_cancelled_by_whoever_finds_them(store: Store, monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    """Also the many elements of a map, some at a time."""
    size = 20
    monkeypatch.setattr(type(store._db), "change_rows", 7)
    run = begin(store, LOST, {"x": 1, "xs": list(range(size))})
    quick = [open_steps(store, run)["quick"]]
    if kept == "dispatcher":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(conclude, "drop", die)
            succeed(store, quick, one)
        assert len(open_steps(store, run)) == 1 + size + 1, "nobody has cancelled anything"
        rows = store.tend_runs(now=T0 + AT_IT_S, limit=10)
        assert {row.state for row in rows} == {JobState.CANCELLED} and len(rows) == 1 + size
    else:
        succeed(store, quick, one)
    assert sorted(open_steps(store, run)) == ["last"]
    assert nothing_is_left(store)
    assert come_to_an_end(store, run) is JobState.SUCCEEDED


def test_a_loser_of_a_failure_is_cancelled_though_who_decided_it_dies(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what has failed needed it: what stands in does not."""
    of = graph(
        step("a", X), step("b", X), step("c", [out("a"), out("b")]), step("d", X),
        output={"$else": [out("c"), out("d")]},
    )  # fmt: skip
    run = begin(store, of)
    waiting = open_steps(store, run)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(conclude, "drop", die)
        fail(store, waiting["a"])
    store.tend_runs(now=T0 + AT_IT_S, limit=10)
    assert nothing_is_left(store)
    assert come_to_an_end(store, run) is JobState.SUCCEEDED


def test_a_late_cancel_of_losers_leaves_alone_what_a_retry_began(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(store, LOST, {"x": 1, "xs": [1, 2]})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conclude, "drop", die)
        succeed(store, [open_steps(store, run)["quick"]], one)
    fail(store, open_steps(store, run)["last"])
    assert store.get(run).state is JobState.FAILED
    assert store.retry(run, now=T0).state is JobState.RUNNING
    store.tend_runs(now=T0 + AT_IT_S, limit=10)
    assert sorted(open_steps(store, run)) == ["last"]
    assert come_to_an_end(store, run) is JobState.SUCCEEDED


# Maps ---------------------------------------------------------------------------------------------------------------


def test_elements_that_follow_begin_though_the_rest_is_left(
    store: Store, short: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    """Nobody else would begin them: whoever ends an element begins those that follow it."""
    of = graph(
        step("m", {"$item": 0}, maps=True, over=[1, 2, 3]),
        step("n", {"$item": 0}, maps=True, over=out("m")),
        step("a", X),
        step("b", out("a")),
        output=[out("n"), out("b")],
    )
    runs = [begin(store, of) for _ in range(3)]
    together = [open_steps(store, run)[path] for run in runs for path in ("a", "m[1]")]
    sessions.clear()
    succeed(store, together, one)
    assert len(sessions[0].todo) == 2, "but for one of them"
    assert [sorted(open_steps(store, run)) for run in runs] == [["b", "m[0]", "m[2]", "n[1]"]] * 3
    for run in runs:
        assert come_to_an_end(store, run) is JobState.SUCCEEDED


def test_runs_in_a_map_are_begun_as_far_as_their_inputs_are_short(
    store: Store, monkeypatch: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    monkeypatch.setattr(maps, "MOST_CHARACTERS", 1000)
    within = graph(step("b", X), output=out("b"))
    each = Step(name="m", kind="run", graph=within, maps=True, over=[1, 2, 3, 4, 5], input={"x": [{"$item": 0}, X]})
    run = begin(store, graph(each, output=out("m")), {"x": "x" * 600})
    assert [len(steps(store, run)), len([session for session in sessions if session.inner])] == [5, 3]
    for path, id in sorted(steps(store, run).items()):
        assert come_to_an_end(store, id.id) is JobState.SUCCEEDED, path
    assert store.get(run).output == [1] * 5


@pytest.mark.parametrize("long", ["elements", "input"])
def test_runs_that_follow_elements_are_begun_as_far_as_these_are_short(
    store: Store, monkeypatch: pytest.MonkeyPatch, sessions: list[Session], long: str
) -> None:
    monkeypatch.setattr(maps, "MOST_CHARACTERS", 1000)
    within = graph(step("b", X), output=out("b"))
    given = [{"$item": 0}, out("late"), X if long == "input" else 1]
    of = graph(
        step("m", {"$item": 0}, maps=True, over=[1, 2, 3, 4, 5]),
        step("late", 1),
        Step(name="n", kind="run", graph=within, maps=True, over=out("m"), input={"x": given}),
        output=out("n"),
    )
    run = begin(store, of, {"x": "x" * 600})
    late = open_steps(store, run)["late"]
    others = [id for path, id in open_steps(store, run).items() if path != "late"]
    succeed(store, others[:4], lambda *_: "y" * (600 if long == "elements" else 1))
    sessions.clear()
    succeed(store, [late], one)
    begun = {path: id for path, id in steps(store, run).items() if path.startswith("n")}
    assert [len(begun), len([session for session in sessions if session.inner])] == [4, 2]
    succeed(store, others[4:], one)
    for path, job in sorted(steps(store, run).items()):
        if job.graph is not None:
            assert come_to_an_end(store, job.id) is JobState.SUCCEEDED, path
    assert store.get(run).output == [1] * 5


def test_runs_in_a_map_are_looked_at_as_far_as_there_is_time(
    store: Store, monkeypatch: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    """One statement asks for all steps of them, of which each may have two thousand."""
    monkeypatch.setattr("penstock.store.runs.first.MOST_LOOKED", 5 * LOOK)
    within = graph(*[step(name, X) for name in "abc"], output=out("c"))
    each = Step(name="m", kind="run", graph=within, maps=True, over=X, input={"x": {"$item": 0}})
    run = begin(store, graph(each, output=out("m")), {"x": [1, 2, 3, 4, 5]})
    assert [len(session.released) for session in sessions] == [0, 6, 6, 3]
    for job in steps(store, run).values():
        assert come_to_an_end(store, job.id) is JobState.SUCCEEDED
    assert store.get(run).output == [1] * 5
