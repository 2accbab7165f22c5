"""Plain Celery tasks in runs, on each database: sent once, ended once, and lost where nobody tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.errors import TaskFailed
from penstock.job import JobState
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.task import Task
from penstock.store import Store
from penstock.store.runs.tasks import Ended
from tests.contract.test_store_runs import fork
from tests.fixtures.runs import begin, finish, graph, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0

X = {"$in": "x"}
ARGS = {"args": [X], "kwargs": {}}


def task(name: str, input: Any, *, timeout: float | None = None, over: Any = None, **options: Any) -> Step:
    """A step that calls the task ``shop.NAME``."""
    of = Task(name=f"shop.{name}", queue="shop", **options)
    return Step(name=name, kind="task", task=of, input=input, timeout=timeout, over=over, maps=over is not None)


ONE = graph(task("a", ARGS), output=out("a"))
BEHIND = graph(step("m", X), task("a", {"args": [out("m")], "kwargs": {"k": 1}}), step("n", out("a")), output=out("n"))


def tell(model: str, value: Any) -> Any:
    return [model, value]


def run_of(store: Store, graph: Graph = ONE, **fields: Any) -> tuple[str, str]:
    """A run and its open task."""
    run = begin(store, graph, **fields)
    return run, open_steps(store, run)["a"]


def send(store: Store, *ids: str, until: float = T0 + 60, now: float = T0) -> set[str]:
    return store.tasks_sent([(id, until) for id in ids], now=now)


def good(id: str, output: str = "7", attempt: int = 1) -> Ended:
    return Ended(id, attempt, JobState.SUCCEEDED, output=output)


def bad(id: str) -> Ended:
    return Ended(id, 1, JobState.FAILED, error=TaskFailed("ValueError: no").as_dict())


def test_a_task_is_a_job_that_no_worker_takes(store: Store) -> None:
    run = begin(store, BEHIND)
    succeed(store, [open_steps(store, run)["m"]], tell)
    id = open_steps(store, run)["a"]
    job = store.get(id)
    assert (job.model, job.state, job.worker, job.attempt) == ("celery:shop.a", JobState.ACCEPTED, None, 0)
    assert store.counts() == [], "its worker and its queue are not ours"
    [unsent] = store.unsent_tasks([id])
    assert (unsent.run, unsent.attempt, unsent.sending, unsent.expires_at) == (run, 1, 0, None)
    assert unsent.task == Task(name="shop.a", queue="shop")
    assert msgspec.json.decode(unsent.given.input or "") == {"args": [["m", 1]], "kwargs": {"k": 1}}
    assert send(store, id) == {id}
    job = store.get(id)
    assert (job.state, job.worker, job.attempt) == (JobState.RUNNING, None, 1)
    assert store.unsent_tasks([id]) == [] and send(store, id) == set(), "once"
    assert store.rescue(now=T0 + 1e6, max_losses=0, max_kills=1) == []
    assert [each.id for each in store.open_tasks()] == [id]
    rows = store.end_tasks([good(id)], now=T0 + 1)
    assert [row.id for row in rows] == [id] and store.open_tasks() == []
    succeed(store, [open_steps(store, run)["n"]], tell, now=T0 + 2)
    assert store.get(run).output == ["n", 7]


def test_the_first_to_end_it_ends_it(store: Store) -> None:
    run, id = run_of(store)
    send(store, id)
    assert store.end_tasks([good(id, attempt=2)], now=T0) == [], "another attempt"
    assert store.end_tasks([], now=T0) == []
    rows = store.end_tasks([good(id), bad(id), good(id, "8")], now=T0 + 1)
    assert {row.id for row in rows} == {id, run} and store.get(run).output == 7
    assert store.end_tasks([bad(id), good(id, "9")], now=T0 + 2) == [], "late and doubled ones change nothing"
    assert (store.get(run).output, store.get(id).output) == (7, 7)


def test_a_return_may_overtake_the_note_that_it_was_sent(store: Store) -> None:
    run, id = run_of(store)
    store.end_tasks([good(id)], now=T0 + 1)
    job = store.get(id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1) and job.ledger.started_at is not None
    assert send(store, id) == set() and store.get(run).output == 7


def test_nobody_ends_what_is_no_task(store: Store) -> None:
    run = begin(store, graph(step("m", X), Step(name="w", kind="wait", signal="s", input=None), output=out("m")))
    for each in steps(store, run).values():
        assert store.end_tasks([good(each.id)], now=T0) == [] and store.unsent_tasks([each.id]) == []
    assert store.end_tasks([good(run)], now=T0) == []
    assert store.open_tasks() == []


def test_a_failure_is_the_runs(store: Store) -> None:
    run, id = run_of(store)
    send(store, id)
    store.end_tasks([bad(id)], now=T0 + 1)
    job = store.get(run)
    assert job.state is JobState.FAILED
    assert job.error is not None and (job.error["code"], job.error["step"], job.error["job"]) == (
        "task_failed",
        "a",
        id,
    )


def test_what_began_before_the_deadline_and_ended_after_it_is_expired(store: Store) -> None:
    run, id = run_of(store, deadline_at=T0 + 5)
    assert store.unsent_tasks([id])[0].expires_at == T0 + 5
    send(store, id)
    store.end_tasks([good(id)], now=T0 + 6)
    assert (store.get(id).state, store.get(id).output) == (JobState.EXPIRED, None)
    assert store.get(run).state is JobState.EXPIRED


@pytest.mark.parametrize(
    ("options", "due", "expires"),
    [
        ({"countdown": 5.0}, 5.0, None),
        ({"countdown": 5.0, "expires": 9.0}, 5.0, 9.0),
        ({"eta": T0 + 7}, 7.0, None),
        ({"eta": T0 - 7, "expires_at": T0 + 1}, 0.0, 1.0),
    ],
)
def test_times_count_from_when_the_step_can_begin(store: Store, options: Any, due: float, expires: Any) -> None:
    _, id = run_of(store, graph(task("a", ARGS, **options), output=out("a")))
    assert store.get(id).available_at == T0 + due
    assert store.unsent_tasks([id])[0].expires_at == (None if expires is None else T0 + expires)
    early, late = (store.take_due(now=T0 + due + by, limit=9, lease_s=1.0) for by in (-0.1, 0.1))
    assert ([job.id for job in early], [job.id for job in late]) == ([], [id])


def test_one_that_nobody_hears_of_is_lost(store: Store) -> None:
    revoked: list[str] = []
    store.revoke_by(revoked.extend)
    run, id = run_of(store)
    waiting = begin(store, graph(Step(name="w", kind="wait", signal="s", input=None, timeout=1), output=out("w")))
    send(store, id, until=T0 + 60)
    assert store.lose_tasks([id], now=T0 + 59, most=5) == []
    assert {row.id for row in store.tend_runs(now=T0 + 61, limit=9)} >= {waiting}, "waits have a limit of their own"
    assert store.get(run).state is JobState.RUNNING
    rows = store.lose_tasks([id], now=T0 + 61, most=5)
    assert {row.id for row in rows} == {id, run} and revoked == [id]
    job = store.get(run)
    assert job.error is not None and (job.error["code"], job.error["step"]) == ("task_lost", "a")
    assert store.end_tasks([good(id)], now=T0 + 62) == [], "its return is late"


def test_one_that_may_run_twice_is_sent_again(store: Store) -> None:
    run, id = run_of(store, graph(task("a", ARGS, resend=True), output=out("a")))
    for sending in range(2):
        assert [each.sending for each in store.unsent_tasks([id])] == [sending]
        assert send(store, id, until=T0 + 60) == {id}
        assert store.lose_tasks([id], now=T0 + 61, most=2) == []
        assert store.get(id).state is JobState.ACCEPTED
        assert [job.id for job in store.take_due(now=T0 + 62, limit=9, lease_s=0.0)] == [id]
    assert store.end_tasks([good(id)], now=T0 + 63), "of whichever message it is"
    assert store.get(run).output == 7

    run, id = run_of(store, graph(task("a", ARGS, resend=True), output=out("a")))
    for _ in range(3):
        send(store, id, until=T0 + 60)
        store.lose_tasks([id], now=T0 + 61, most=2)
    assert store.get(run).state is JobState.FAILED, "not for ever"


def test_a_cancelled_run_revokes_what_was_sent(store: Store) -> None:
    revoked: list[str] = []
    store.revoke_by(revoked.extend)
    two = graph(task("a", ARGS), task("b", ARGS), step("m", X), output=[out("a"), out("b"), out("m")])
    run, id = run_of(store, two)
    send(store, id)
    store.cancel(run, now=T0 + 1)
    assert revoked == [id]
    assert {path: job.state for path, job in steps(store, run).items()} == dict.fromkeys("abm", JobState.CANCELLED)
    assert store.end_tasks([good(id)], now=T0 + 2) == []
    # What was cancelled while it was sent is not noted: the sender revokes it.
    assert send(store, steps(store, run)["b"].id) == set()


def test_a_retry_calls_again_what_has_not_succeeded(store: Store) -> None:
    both = graph(task("a", ARGS), task("b", ARGS), output=[out("a"), out("b")])
    run, a = run_of(store, both)
    b = open_steps(store, run)["b"]
    send(store, a, b)
    store.end_tasks([good(b, "2")], now=T0)
    store.end_tasks([bad(a)], now=T0)
    assert store.get(run).state is JobState.FAILED
    store.retry(run, now=T0 + 1)
    again = open_steps(store, run)
    assert list(again) == ["a"] and again["a"] != a, "another call, with an id of its own"
    assert store.end_tasks([good(a)], now=T0 + 2) == [], "that of the try before is late"
    store.end_tasks([good(again["a"], "1")], now=T0 + 2)
    assert store.get(run).output == [1, 2]


def test_a_map_of_tasks_is_counted(store: Store) -> None:
    item = {"args": [{"$item": 0}], "kwargs": {}}
    run = begin(store, graph(task("a", item, over=X), output=out("a")), {"x": list(range(300))})
    while store.get(run).state is JobState.RUNNING:
        waiting = open_steps(store, run)
        unsent = {each.id: each for each in store.unsent_tasks(list(waiting.values()))}
        assert len(unsent) == len(waiting) > 0
        send(store, *unsent)
        args = {id: msgspec.json.decode(each.given.input or "")["args"][0] for id, each in unsent.items()}
        store.end_tasks([good(id, str(value * 2)) for id, value in args.items()], now=T0)
    assert store.get(run).output == [value * 2 for value in range(300)]
    empty = begin(store, graph(task("a", item, over=X), output=out("a")), {"x": []})
    assert store.get(empty).output == []


def test_what_was_cancelled_is_walked_over_once(store: Store) -> None:
    run, id = run_of(store)
    send(store, id)
    store.cancel(run, now=T0 + 1)
    assert [(each.id, each.open) for each in store.open_tasks()] == [(id, False)]
    assert store.open_tasks() == [] and store.lose_tasks([id], now=T0 + 1e6, most=5) == []
    run, id = run_of(store)
    send(store, id)
    store.cancel(run, now=T0 + 1)
    assert store.prune(before=T0 + 2, limit=9) > 0
    assert len(store.open_tasks()) == 1 and store.open_tasks() == []


def test_open_tasks_are_walked_in_pages(store: Store) -> None:
    ids = [run_of(store)[1] for _ in range(5)]
    for number, id in enumerate(ids):
        send(store, id, until=T0 + 60 + number // 2)
    seen, after = [], None
    while page := store.open_tasks(after=after, limit=2):
        seen += [each.id for each in page]
        after = page[-1]
    assert sorted(seen) == sorted(ids) and len(seen) == 5


def forked(store: Store, run: str, from_step: str | None = None) -> dict[str, str]:
    """The steps of a fork of such a run that wait for somebody, by path, and the fork."""
    copy = fork(store, run, {"x": 1}, from_step=from_step)
    return {"run": copy, **open_steps(store, copy)}


@pytest.mark.parametrize(("from_step", "again"), [("m", "m"), ("a", "a"), ("n", "n"), (None, "")])
def test_a_fork_sends_a_task_again_only_from_there_on(store: Store, from_step: str | None, again: str) -> None:
    run = begin(store, BEHIND)
    succeed(store, [open_steps(store, run)["m"]], tell)
    old = open_steps(store, run)["a"]
    send(store, old)
    store.end_tasks([good(old)], now=T0 + 1)
    finish(store, run, tell, now=T0 + 2)
    before = store.get(old)
    waiting = forked(store, run, from_step)
    assert waiting.keys() - {"run"} == set(again)
    copy = waiting["run"]
    task = steps(store, copy).get("a")
    if again in ("n", ""):
        assert task is not None and task.id != old
        assert (task.state, task.output, task.attempt) == (JobState.SUCCEEDED, 7, 1), "taken over"
        assert store.unsent_tasks([task.id]) == [] and send(store, task.id) == set(), "and sent no more"
    if again == "m":
        assert task is None
        succeed(store, [waiting["m"]], tell, now=T0 + 3)
    if again in ("m", "a"):
        new = open_steps(store, copy)["a"]
        assert new != old and [(each.id, each.sending) for each in store.unsent_tasks([new])] == [(new, 0)]
        assert store.end_tasks([good(old, "9")], now=T0 + 4) == [], "the other one's return is not its own"
        send(store, new, now=T0 + 4)
        store.end_tasks([good(new, "8")], now=T0 + 5)
    assert store.open_tasks() == []
    assert finish(store, copy, tell, now=T0 + 6).output == ["n", 8 if again in ("m", "a") else 7]
    assert store.get(run).output == ["n", 7] and store.get(old) == before, "the old run is as it was"


def test_a_task_in_flight_is_not_its_forks(store: Store) -> None:
    """It is sent a second time, for the fork; each run hears of its own, and a cancelled fork revokes its own."""
    revoked: list[str] = []
    store.revoke_by(revoked.extend)
    run = begin(store, BEHIND)
    succeed(store, [open_steps(store, run)["m"]], tell)
    old = open_steps(store, run)["a"]
    send(store, old, until=T0 + 60)
    before = store.get(old)
    waiting = forked(store, run)
    assert waiting.keys() - {"run"} == {"a"} and waiting["a"] != old, "what was before it is taken over"
    other = forked(store, run, "m")
    new = waiting["a"]
    send(store, new, until=T0 + 90)
    assert [each.id for each in store.open_tasks()] == [old, new] and store.get(old) == before
    store.cancel(waiting["run"], now=T0 + 1)
    assert revoked == [new]
    store.end_tasks([good(old)], now=T0 + 2)
    assert finish(store, run, tell, now=T0 + 3).output == ["n", 7]
    assert (store.get(waiting["run"]).state, store.get(other["run"]).state) == (JobState.CANCELLED, JobState.RUNNING)


def test_a_map_of_tasks_is_taken_over_whole_or_not_at_all(store: Store) -> None:
    item = {"args": [{"$item": 0}], "kwargs": {}}
    of = graph(task("a", item, over=[1, 2]), step("n", out("a")), output=out("n"))
    run = begin(store, of)
    ids = open_steps(store, run)
    send(store, *ids.values())
    store.end_tasks([good(ids["a[0]"])], now=T0 + 1)
    half = forked(store, run)
    assert half.keys() - {"run"} == {"a[0]", "a[1]"}, "what has ended of it is called again"
    store.end_tasks([good(ids["a[1]"], "8")], now=T0 + 2)
    whole = forked(store, run)
    assert whole.keys() - {"run"} == {"n"}
    assert finish(store, whole["run"], tell, now=T0 + 3).output == ["n", [7, 8]]
