"""The result backend that writes a batch's results together, beside what Celery expects of a backend."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator

import pytest
from celery import Celery, chain, group, states
from celery.app.task import Context
from celery.canvas import chord
from celery.exceptions import ChordError

from penstock_worker.canvas.results import BulkRedisBackend, bulk_url
from tests.fixtures import celeryapps

# Celery's own calls, and a connection of its own that it does not close.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Call to deprecated"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = Celery("results", broker=broker_url, backend=bulk_url(broker_url), set_as_current=False)
    app.conf.result_chord_join_timeout = 5.0

    @app.task(name="plain", shared=False)
    def plain(value: int) -> int:
        return value

    yield app
    gc.collect()  # results unsubscribe when they go: while the server is there
    celeryapps.close(app)


@pytest.fixture
def revoked(app: Celery, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a worker that hears of a revocation finds stored of each task. It keeps what has ended."""
    seen: dict[str, str] = {}

    def revoke(ids: str | list[str], **_: object) -> None:
        for id in [ids] if isinstance(ids, str) else ids:
            seen[id] = _stored(app, id)

    monkeypatch.setattr(app.control, "revoke", revoke)
    return seen


def _stored(app: Celery, id: str) -> str:
    """What others find: a thread reads what it has gathered itself."""
    text = app.backend.client.get(app.backend.get_key_for_task(id))
    return json.loads(text)["status"] if text is not None else states.PENDING


def _context(header_id: str, body: object) -> Context:
    return Context(id=header_id, group="g", group_index=0, chord=body, errbacks=None, chain=None)


@pytest.mark.parametrize("body", ["group", "chain of groups"])
def test_failures_of_a_chords_body_are_stored_before_celery_revokes_it(
    app: Celery, revoked: dict[str, str], body: str
) -> None:
    backend = app.backend
    assert isinstance(backend, BulkRedisBackend)
    plain = app.tasks["plain"]
    after = group(plain.si(1), plain.si(2))
    members = after if body == "group" else chain(after, group(plain.si(3), plain.si(4)))
    whole = chord([plain.si(0)], members)
    whole.freeze()
    backend.set_chord_size("g", 1)
    with backend.bulk():
        backend.store_result("header", ValueError("bad"), states.FAILURE)
        backend.on_chord_part_return(_context("header", dict(whole.body)), states.FAILURE, ChordError("bad"))
        backend.store_result("next", 1, states.SUCCESS)
        assert _stored(app, "next") == states.PENDING, "what comes after is gathered again"
    assert _stored(app, "next") == states.SUCCESS
    if body == "group":
        assert len(revoked) >= 2
        assert set(revoked.values()) == {states.FAILURE}


def test_what_is_gathered_is_written_before_a_part_is_counted(app: Celery) -> None:
    backend = app.backend
    plain = app.tasks["plain"]
    backend.set_chord_size("g", 2)
    body = plain.s()
    body.freeze()
    with backend.bulk():
        backend.store_result("header", 1, states.SUCCESS)
        assert _stored(app, "header") == states.PENDING
        backend.on_chord_part_return(_context("header", dict(body)), states.SUCCESS, 1)
        assert _stored(app, "header") == states.SUCCESS


def test_an_error_callback_is_sent_when_the_failure_can_be_read(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given an id. Celery stores the failure before it sends one."""
    backend, seen = app.backend, []
    send = app.amqp.send_task_message

    def look(*args: object, **kwargs: object) -> object:
        seen.append(_stored(app, "failed"))
        return send(*args, **kwargs)

    monkeypatch.setitem(app.amqp.__dict__, "send_task_message", look)
    errback = dict(app.signature("somebodys.errback"))
    request = Context(id="failed", errbacks=[errback], chord=None, chain=None, delivery_info={})
    with backend.bulk():
        backend.mark_as_failure("failed", ValueError("bad"), request=request)
    assert seen == [states.FAILURE]


def test_who_gathers_reads_what_was_gathered(app: Celery) -> None:
    """Two members that fail in one batch with the same chain after them: its part of a chord is counted once."""
    backend = app.backend
    with backend.bulk():
        backend.store_result("one", 1, states.SUCCESS)
        backend.store_result("one", ValueError("late"), states.FAILURE)
        assert backend.get_state("one") == states.SUCCESS
        assert [result["status"] for _, result in backend.get_many(["one"], timeout=1.0)] == [states.SUCCESS]
    assert backend.get_state("one") == states.SUCCESS


def test_results_that_could_not_be_written_are_not_forgotten(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next part of a chord fails first; the end of the batch must not find that all is well."""
    backend = app.backend

    def away(*_: object) -> None:
        raise RuntimeError("refused")  # what Celery does not try again, as it would a lost connection

    write = backend._write
    with backend.bulk():
        backend.store_result("one", 1, states.SUCCESS)
        monkeypatch.setattr(backend, "_write", away)
        with pytest.raises(RuntimeError):
            backend.on_chord_part_return(_context("one", None), states.SUCCESS, 1)
        monkeypatch.setattr(backend, "_write", write)
    assert backend.get_state("one") == states.SUCCESS


def test_a_group_is_saved_at_once(app: Celery) -> None:
    """Its members may end elsewhere before the batch that has sent them."""
    backend = app.backend
    with backend.bulk():
        backend.save_group("saved", app.GroupResult("saved", []))
        assert backend.client.get(backend.get_key_for_group("saved")) is not None
