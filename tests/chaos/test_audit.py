"""The witnesses themselves: what they are there to notice, they notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.job import JobState
from penstock.store import Store
from tests.chaos.audit import Audit
from tests.fixtures.store import T0, add, end, running

OK = (JobState.SUCCEEDED,)


@pytest.fixture
def witnessed(store: Store, database_url: str, tmp_path: Path) -> tuple[Audit, str]:
    """A job that was accepted, ran once, and succeeded."""
    audit = Audit(database_url, tmp_path / "ledger")
    audit.install()
    (id,) = running(store)
    audit.ledger.write_text("k1\n")
    end(store, [id])
    return audit, id


def test_all_is_well(witnessed: tuple[Audit, str]) -> None:
    audit, id = witnessed
    assert audit.verify({id: "k1"}, expected={id: OK}) == {JobState.SUCCEEDED: 1}
    assert (audit.settled(), audit.open(), audit.busy_workers()) == (1, {}, [])


def test_a_lost_job(witnessed: tuple[Audit, str]) -> None:
    audit, id = witnessed
    with pytest.raises(AssertionError, match="1 accepted jobs are not in SQL"):
        audit.verify({id: "k1", "gone": "k2"}, expected={})


def test_a_job_that_never_ended(witnessed: tuple[Audit, str], store: Store) -> None:
    audit, id = witnessed
    add(store)
    with pytest.raises(AssertionError, match="1 jobs never ended"):
        audit.verify({id: "k1"}, expected={})


def test_a_job_that_ended_as_it_must_not(witnessed: tuple[Audit, str]) -> None:
    audit, id = witnessed
    with pytest.raises(AssertionError, match="1 jobs ended wrongly"):
        audit.verify({id: "k1"}, expected={id: (JobState.FAILED,)})


def test_a_terminal_state_that_changed(witnessed: tuple[Audit, str], store: Store) -> None:
    """Whoever does it, and by whatever way: the database itself is the witness."""
    audit, id = witnessed
    audit._run(f"UPDATE penstock_job SET state = 'failed' WHERE id = '{id}' RETURNING id")  # noqa: S608
    with pytest.raises(AssertionError, match="illegal changes of state"):
        audit.verify({id: "k1"}, expected={})


def test_a_replayed_job_has_ended_twice(witnessed: tuple[Audit, str], store: Store) -> None:
    """A legal way to end twice is a user's replay; no chaos test asks for one."""
    audit, id = witnessed
    (failed,) = running(store)
    end(store, [failed], JobState.FAILED)
    store.retry(failed, now=T0 + 3)
    store.cancel(failed, now=T0 + 4)
    with pytest.raises(AssertionError, match="1 jobs were settled more than once"):
        audit.verify({id: "k1"}, expected={})


def test_a_success_that_never_ran(witnessed: tuple[Audit, str]) -> None:
    audit, id = witnessed
    audit.ledger.unlink()
    with pytest.raises(AssertionError, match="1 jobs succeeded and never ran"):
        audit.verify({id: "k1"}, expected={})


def test_an_attempt_that_ran_twice(witnessed: tuple[Audit, str]) -> None:
    audit, id = witnessed
    audit.ledger.write_text("k1\nk1\n")
    with pytest.raises(AssertionError, match="1 jobs ran more often than they were claimed"):
        audit.verify({id: "k1"}, expected={})
