"""Cancel and retry for many jobs at a time, on each database."""

from __future__ import annotations

import re

import pytest

from penstock.job import JobState
from penstock.store import Store
from penstock.store.bulk import page_sql
from penstock.store.sql import Dialect
from tests.fixtures.store import T0, add, end, running


def test_each_is_cancelled_as_by_the_single_verb(store: Store) -> None:
    waiting = add(store, 2) + add(store, 1, webhook="https://example.com/x", reply_to="c")
    runs, over = running(store, 1), running(store, 1)
    end(store, over)
    ids = [*waiting, *runs, *over, "nobody"]
    changed = store.cancel_many(ids, now=T0 + 5)
    assert {row.id: row.state for row in changed} == dict.fromkeys(waiting, JobState.CANCELLED) | dict.fromkeys(
        runs, JobState.RUNNING
    )
    assert [row.reply_to for row in changed if row.webhook] == ["c"]
    assert [delivery.job_id for delivery in store.list_deliveries()] == waiting[-1:], "in the same transaction"
    assert store.get(waiting[0]) == store.cancel(waiting[0], now=T0 + 6)
    assert store.get(waiting[0]).ledger.settled_at == T0 + 5
    expected = (
        dict.fromkeys(waiting, "cancelled") | dict.fromkeys(runs, "cancelling") | dict.fromkeys(over, "succeeded")
    )
    assert store.statuses(ids) == expected
    assert store.cancel_many(ids, now=T0 + 7) == [], "a second call changes nothing"
    end(store, runs)
    assert store.get(runs[0]).state is JobState.CANCELLED


def test_each_is_run_again_as_by_the_single_verb(store: Store) -> None:
    failed, fine, waiting = running(store, 2), running(store, 1), add(store, 1)
    end(store, failed, JobState.FAILED)
    end(store, fine)
    jobs = store.retry_many([*failed, *fine, *waiting, "nobody"], now=T0 + 9, publish_lease_s=2.0)
    assert {job.id for job in jobs} == set(failed)
    assert {(job.state, job.available_at, job.failures, job.error, job.input) for job in jobs} == {
        (JobState.ACCEPTED, T0 + 9, 0, None, "hello")
    }
    assert store.take_due(now=T0 + 10, limit=9, lease_s=1.0) == [store.get(waiting[0])], "they are ours to publish"
    assert store.statuses(fine) == {fine[0]: "succeeded"}


def test_who_has_left_the_state_that_was_meant_is_left_alone(store: Store) -> None:
    (id,) = running(store, 1)
    assert store.cancel_many([id], now=T0, only="queued") == []
    assert [row.id for row in store.cancel_many([id], now=T0, only="running")] == [id]


@pytest.mark.parametrize(
    ("fits", "names"),
    [
        ({"model": "a"}, "aAv"),
        ({"model": "a", "lane": "interactive"}, "A"),
        ({"tenant": "acme"}, "t"),
        ({"tag": "run", "value": "7"}, "g"),
        ({"tag_name": "run"}, "gh"),
        ({"until": T0 + 10}, "aAtghv"),
        ({"model": "nobody's"}, ""),
        ({"model": "a", "asked": "2"}, "v"),
    ],
)
def test_a_walk_finds_who_fits_a_bounded_number_at_a_time(store: Store, fits: dict[str, object], names: str) -> None:
    made = {
        "a": {"model": "a"},
        "A": {"model": "a", "lane": "interactive"},
        "t": {"tenant": "acme"},
        "g": {"tags": {"run": "7"}},
        "h": {"tags": {"run": "8", "x": "7"}},
        "v": {"model": "a", "asked_version": "2"},
        "l": {"accepted_at": T0 + 20},
    }
    ids = {add(store, 1, **fields)[0]: name for name, fields in made.items()}
    end(store, running(store, 2, model="a"))
    found, after, pages = "", (0.0, ""), 0
    while after is not None:
        page, after = store.page("accepted", {"until": T0 + 100, **fits}, after=after, scan=2)
        found += "".join(ids[id] for id in page)
        pages += 1
    assert sorted(found) == sorted(names)
    meant = 7 - (fits.get("until") == T0 + 10)
    assert pages == meant // 2 + 1, "those that came later are not even looked at"


def test_a_filter_that_is_not_known_means_no_more_jobs(store: Store) -> None:
    with pytest.raises(KeyError):
        store.page("accepted", {"modle": "a"}, scan=2)


@pytest.mark.parametrize("fits", ["model until", "tag value until", "tag_name tenant lane asked until"])
def test_a_page_reads_its_own_jobs_and_no_others(store: Store, fits: str) -> None:
    """In the order of an index: not all that fit, sorted, nor all that have the tag, again for each page."""
    add(store, 3)
    db = store._db
    text = ("EXPLAIN QUERY PLAN" if db.dialect is Dialect.SQLITE else "EXPLAIN") + page_sql(fits.split())
    values: dict[str, object] = dict.fromkeys(fits.split(), "x")
    values |= {"until": T0, "state": "queued", "at": 0.0, "after": "", "scan": 1000}
    with db.read() as session:
        plan = "\n".join(str(row[-1]) for row in session.all(text, values))
    assert "ix_penstock_job_time" in plan
    assert not re.search("Sort|Bitmap|hashed|TEMP B-TREE|Seq Scan|SCAN penstock_job", plan), plan
    assert ("ix_penstock_job_tag_job" in plan) == ("tag" in fits)


def test_ids_by_their_beginning_and_their_neighbours(store: Store) -> None:
    ids = sorted(add(store, 5))
    assert store.ids_from(ids[0][:8], limit=9) == [id for id in ids if id.startswith(ids[0][:8])]
    assert store.ids_from(ids[2], limit=2) == [ids[2]]
    assert store.ids_from("x", limit=2) == []
    assert store.neighbours([ids[0], ids[2]]) == {ids[1], ids[3]}
