"""What the store promises to producers, on each database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.errors import IdempotencyConflict, InvalidInput
from penstock.job import JobState
from penstock.store import Inserted, Store
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import T0, add, claim, make_job, register


def test_a_job_comes_back_as_it_was_given(store: Store) -> None:
    job = make_job(
        tenant="acme",
        priority=7,
        deadline_at=T0 + 10,
        timeout_s=2.5,
        webhook="https://example.com/x",
        tags={"run": "7", "Ünï": "ç ☃"},
        trace="00-abc-def-01",
        reply_to="client-1",
        canvas='{"chain": []}',
        input='{"a": [1, 2.5, null, true], "b": "ü"}',
    )
    assert store.insert([job]) == [Inserted(job.id, True)]
    found = store.get(job.id)
    for name in ("id", "model", "version", "lane", "tenant", "priority", "deadline_at", "timeout_s", "webhook", "tags"):
        assert getattr(found, name) == getattr(job, name), name
    assert (found.trace, found.reply_to, found.canvas) == (job.trace, job.reply_to, job.canvas)
    assert found.input == {"a": [1, 2.5, None, True], "b": "ü"}
    assert (found.state, found.attempt, found.output, found.error) == (JobState.ACCEPTED, 0, None, None)
    assert found.ledger.accepted_at == T0


@pytest.mark.parametrize(
    "field",
    [
        {"asked_version": "2"},
        {"deadline_at": T0 + 10},
        {"timeout_s": 2.5},
        {"idempotency_key": "k"},
        {"webhook": "https://example.com/x"},
        {"tags": {"run": "7"}},
        {"trace": "00-abc-def-01"},
        {"reply_to": "client-1"},
        {"canvas": "{}"},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_few_jobs_have_is_kept_beside_jobs_that_have_nothing(store: Store, field: dict[str, Any]) -> None:
    jobs = [make_job(), make_job(**field), make_job()]
    store.insert(jobs)
    (name, value) = next(iter(field.items()))
    found = [getattr(store.get(job.id), name) for job in jobs]
    assert found[1] == value
    assert (found[0] or None) == (found[2] or None) == (getattr(jobs[0], name) or None)  # no tags are {} in a job


@pytest.mark.parametrize(
    "text", ['"\\u0000"', '"a\\u0000b"', '"\\\\u0000"', '"\\ud83d\\ude00 😀"', '"\u2028"', '"\x7f"']
)
def test_any_json_text_survives(store: Store, text: str) -> None:
    """Among them NUL, which a text column of Postgres cannot hold unless it is escaped, as in JSON it always is."""
    import msgspec

    (id,) = add(store, input=text)
    claimed = store.claim([id], worker="w1", now=T0, need_input=[id]).claimed[id]
    assert claimed.input == text
    from tests.fixtures.store import outcome

    store.settle([outcome(id, output=text)], worker="w1", now=T0)
    assert store.get(id).input == store.get(id).output == msgspec.json.decode(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "a\0b"},
        {"idempotency_key": "\0", "digest": "d"},
        {"tags": {"a": "\0"}},
        {"tags": {"\0": "a"}},
        {"tenant": "\ud800"},
    ],
)
def test_text_that_cannot_be_stored_is_refused_alone(store: Store, fields: dict[str, object]) -> None:
    good = make_job()
    refused, accepted = store.insert_groups([[make_job(**fields)], [good]])
    assert isinstance(refused, InvalidInput) and refused.fix
    assert accepted == [Inserted(good.id, True)]
    assert [job.id for job in store.list()] == [good.id]


def test_many_at_once_and_in_order(store: Store) -> None:
    jobs = [make_job(input=str(n)) for n in range(3000)]
    assert [row.id for row in store.insert(jobs)] == [job.id for job in jobs]
    found = store.get_many([job.id for job in jobs])
    assert [found[job.id].input for job in jobs] == list(range(3000))


def test_large_inputs(store: Store) -> None:
    jobs = [make_job(input='"' + "x" * 9_000_000 + '"') for _ in range(5)]
    store.insert(jobs)
    assert len(store.get(jobs[4].id).input) == 9_000_000


def test_nothing_is_nothing(store: Store) -> None:
    assert store.insert([]) == []
    assert store.insert_groups([]) == []
    assert store.insert_groups([[], []]) == [[], []]
    assert store.mark_queued([], now=T0) == 0
    assert store.claim([], worker="w1", now=T0).claimed == {}
    assert store.settle([], worker="w1", now=T0) == []
    assert store.get_many([]) == {}


def test_a_repeated_insert_of_the_same_ids_changes_nothing(store: Store) -> None:
    """A caller that lost the connection during the commit does not know whether it happened."""
    jobs = [make_job(), make_job(idempotency_key="k", digest="d", tags={"a": "b"})]
    first = store.insert(jobs)
    claim(store, [jobs[0].id])
    assert store.insert(jobs) == first
    assert store.get(jobs[0].id).state is JobState.RUNNING
    assert len(store.list(tag="a=b")) == 1


# Idempotency ------------------------------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_job(store: Store) -> None:
    first = make_job(idempotency_key="k", digest="d")
    again = make_job(idempotency_key="k", digest="d")
    store.insert([first])
    assert store.insert([again]) == [Inserted(first.id, False)]
    assert len(store.list()) == 1


def test_a_key_belongs_to_its_tenant(store: Store) -> None:
    rows = store.insert([make_job(idempotency_key="k", digest="d", tenant=tenant) for tenant in ("a", "b")])
    assert [row.created for row in rows] == [True, True]


def test_the_same_key_with_another_body_is_refused_and_nothing_is_stored(store: Store) -> None:
    store.insert([make_job(idempotency_key="k", digest="d")])
    with pytest.raises(IdempotencyConflict) as caught:
        store.insert([make_job(), make_job(idempotency_key="k", digest="e"), make_job()])
    assert caught.value.fix
    assert len(store.list()) == 1


def test_a_key_twice_in_one_call(store: Store) -> None:
    one, two = (make_job(idempotency_key="k", digest="d") for _ in range(2))
    assert store.insert([one, two]) == [Inserted(one.id, True), Inserted(one.id, False)]
    with pytest.raises(IdempotencyConflict):
        store.insert([make_job(idempotency_key="x", digest="1"), make_job(idempotency_key="x", digest="2")])
    assert len(store.list()) == 1


def test_one_callers_conflict_fails_nobody_else(store: Store) -> None:
    taken = make_job(idempotency_key="k", digest="d")
    store.insert([taken])
    mine = make_job(idempotency_key="new", digest="n")
    groups = [
        [make_job()],
        # The whole group goes, so its key "new" is free for the next one.
        [make_job(idempotency_key="new", digest="other"), make_job(idempotency_key="k", digest="e")],
        [mine],
        [make_job(idempotency_key="k", digest="d")],
    ]
    first, conflict, third, same = store.insert_groups(groups)
    assert isinstance(first, list) and first[0].created
    assert isinstance(conflict, IdempotencyConflict)
    assert third == [Inserted(mine.id, True)]
    assert same == [Inserted(taken.id, False)]
    assert len(store.list()) == 3


def test_a_race_for_keys_has_one_winner_per_key(store: Store) -> None:
    threads, keys = 6, 40
    barrier = threading.Barrier(threads)

    def contend(number: int) -> list[Inserted]:
        barrier.wait(PATIENCE_S)
        # Each in another order, which is what makes transactions deadlock.
        order = sorted(range(keys), key=lambda key: hash((key, number)))
        rows = store.insert([make_job(idempotency_key=str(key), digest="d") for key in order])
        return [row for _, row in sorted(zip(order, rows, strict=True))]

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(contend, range(threads)))
    for answers in zip(*results, strict=True):
        assert len({row.id for row in answers}) == 1
        assert sum(row.created for row in answers) == 1
    assert len(store.list(limit=1000)) == keys


def test_a_race_with_different_bodies_is_a_conflict_for_the_loser(store: Store) -> None:
    for round in range(20):
        barrier = threading.Barrier(2)

        def contend(digest: str, barrier: threading.Barrier = barrier, round: int = round) -> object:
            barrier.wait(PATIENCE_S)
            try:
                return store.insert([make_job(idempotency_key=str(round), digest=digest)])[0].created
            except IdempotencyConflict:
                return "conflict"

        with ThreadPoolExecutor(2) as pool:
            assert sorted(map(str, pool.map(contend, "ab"))) == ["True", "conflict"]


# Adoption ---------------------------------------------------------------------------------------------------------


def test_an_adopted_job_keeps_what_its_message_carried(store: Store) -> None:
    job = make_job(tenant="acme", tags={"run": "7"}, webhook="https://example.com/x", trace="00-abc-def-01")
    assert store.adopt([job]) == [job.id]
    assert store.adopt([job]) == []
    found = store.get(job.id)
    assert (found.tenant, found.tags, found.webhook, found.trace) == ("acme", job.tags, job.webhook, job.trace)
    assert [each.id for each in store.list(tag=("run", "7"))] == [job.id]


def test_of_two_messages_with_one_id_the_tags_are_those_of_the_job(store: Store) -> None:
    for _ in range(10):
        first = make_job(tags={"w": "0"})
        twins = [first, make_job(id=first.id, tags={"w": "1"}), make_job(id=first.id, tags={"w": "2"})]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda twin: store.adopt([twin]), twins))
        tags = store.get(first.id).tags
        found = [n for n in "012" if first.id in [each.id for each in store.list(tag=("w", n), limit=1000)]]
        assert {"w": found[0]} == tags and len(found) == 1


def test_jobs_first_seen_at_the_broker_are_adopted_once(store: Store) -> None:
    known, new = make_job(), make_job(id="some-celery-task-id")
    store.insert([known])
    assert store.adopt([known, new]) == [new.id]
    assert store.adopt([known, new]) == []
    assert store.get(new.id).state is JobState.QUEUED
    assert store.get(known.id).state is JobState.ACCEPTED
    claim(store, [new.id])


@pytest.mark.parametrize("id", ["a\0b", "\ud83d"], ids=ascii)
def test_an_id_that_cannot_be_stored_is_not_adopted(store: Store, id: str) -> None:
    good = make_job()
    with pytest.raises(InvalidInput):
        store.adopt([good, make_job(id=id)])
    assert store.adopt([good]) == [good.id], "nothing of the refused call was stored"


def test_an_adopted_job_whose_time_has_not_come_waits_in_sql(store: Store) -> None:
    job = make_job(available_at=T0 + 60)
    store.adopt([job])
    assert store.get(job.id).state is JobState.ACCEPTED
    assert store.claim([job.id], worker="w1", now=T0 + 1).claimed == {}
    assert [due.id for due in store.take_due(now=T0 + 60, limit=10, lease_s=5)] == [job.id]


# Models -----------------------------------------------------------------------------------------------------------


def test_models_are_known_beyond_the_life_of_their_workers(store: Store) -> None:
    register(store, "w7", models={"embed": {"version": "1"}, "rank": {"version": "3", "schema": {"type": "string"}}})
    register(store, "w8", models={"embed": {"version": "2"}}, device="cpu")
    store.unregister_worker("w7")
    store.unregister_worker("w8")
    assert store.models() == {"embed": {"version": "2"}, "rank": {"version": "3", "schema": {"type": "string"}}}


def test_pipelines_are_known_beside_models_and_are_none(store: Store) -> None:
    about = {"graph": '{"a":1}', "doc": "Ünïcode", "inputs": {"b": {"default": None}, "a": {"schema": {}}}}
    register(store, "w7", models={"embed": {"version": "1"}}, pipelines={"ask": about, "old": {"graph": "1"}})
    register(store, "w8", pipelines={"ask": about | {"graph": "{}"}})
    register(store, "w9", models={"ask": {"version": "1"}})
    store.unregister_worker("w7")
    assert store.pipelines() == {"ask": about | {"graph": "{}"}, "old": {"graph": "1"}}
    assert list(store.pipelines()["ask"]["inputs"]) == ["b", "a"], "inputs have an order"
    assert list(store.models()) == ["ask", "embed"]
    assert not any("pipelines" in worker.info for worker in store.workers()), "graphs are not read with each worker"
