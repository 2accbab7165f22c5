"""The form of a message, held against Celery's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual import Message

from penstock.job import Job, JobState, Ledger, NewJob, new_id
from penstock.transport.message import (
    _EMBED,
    MAX_BODY_BYTES,
    canvas_of,
    decode,
    encode,
    encode_canvas,
    id_of,
    is_canvas,
    open_canvas,
)


def make_job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "id": new_id(),
        "model": "embed",
        "version": "1",
        "input": '"hello"',
        "lane": "interactive",
        "accepted_at": 1.0,
        "available_at": 1.0,
    }
    return NewJob(**fields | changes)


class _Channel:
    """What kombu's Message needs of a channel."""

    no_ack_consumers = None

    def decode_body(self, body: str, encoding: str | None = None) -> str:
        assert encoding == "utf-8"
        return body


def as_kombu(raw: bytes) -> Message:
    return Message(json.loads(raw), channel=_Channel())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def app() -> Celery:
    return Celery("contract", broker="memory://", set_as_current=False)


# Plain ----------------------------------------------------------------------------------------------------------


def test_a_plain_message_is_the_one_that_celery_would_make(app: Celery) -> None:
    job = make_job(timeout_s=30.0)
    theirs = app.amqp.as_task_v2(
        job.id,
        "penstock.embed",
        args=["hello"],
        argsrepr='("hello",)',
        origin="penstock",
        time_limit=30.0,
        ignore_result=True,
    )
    ours = as_kombu(encode(job, "penstock"))
    headers = dict(ours.headers)
    assert headers.pop("penstock")["plain"] is True
    assert headers == theirs.headers
    assert ours.payload == json.loads(json.dumps(theirs.body))
    assert ours.properties["correlation_id"] == theirs.properties["correlation_id"]
    assert ours.properties["reply_to"] == theirs.properties["reply_to"]
    assert ours.content_type == "application/json"
    assert ours.delivery_info == {"exchange": "", "routing_key": "penstock.embed.interactive"}


def test_every_header_of_celerys_is_in_ours(app: Celery) -> None:
    """A new Celery that adds a header is noticed here."""
    theirs = app.amqp.as_task_v2("id", "penstock.embed", args=["hello"])
    ours = as_kombu(encode(make_job(), "penstock"))
    assert list(ours.headers)[:-1] == list(theirs.headers)


def test_a_deadline_is_also_celerys_expiry() -> None:
    ours = as_kombu(encode(make_job(deadline_at=1_700_000_000.5), "penstock"))
    assert ours.headers["expires"] == "2023-11-14T22:13:20.500000+00:00"


@pytest.mark.parametrize("deadline", [1e12, -1e12, 1e300])
def test_a_deadline_without_a_date_expires_by_sql_alone(deadline: float) -> None:
    raw = encode(make_job(deadline_at=deadline), "penstock")
    assert as_kombu(raw).headers["expires"] is None
    read = decode(raw)
    assert read is not None
    assert read.deadline_at == deadline


def test_a_compressed_message_is_kept_and_sent_unpacked() -> None:
    body, properties = [["x"], {}, None], {"correlation_id": "1", "body_encoding": "base64"}
    kept = canvas_of({"id": "1", "compression": "application/x-gzip"}, body, properties)
    # Rows that were written before the header was left out are read the same way.
    older = kept.replace('"id":"1"', '"id":"1","compression":"application/x-gzip"', 1)
    for canvas in (kept, older):
        again = as_kombu(encode_canvas(canvas, input='"x"', queue="q"))
        assert "compression" not in again.headers
        assert again.payload == [["x"], {}, _EMBED]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    value=json_values,
    priority=st.integers(0, 9),
    timeout=st.none() | st.floats(0.1, 1e6),
    deadline=st.none() | st.floats(1e9, 4e9),
    reply_to=st.none() | st.text(),
    trace=st.none() | st.text(),
    tenant=st.text(min_size=1),
)
def test_what_is_written_is_read_again(
    value: Any,
    priority: int,
    timeout: float | None,
    deadline: float | None,
    reply_to: str | None,
    trace: str | None,
    tenant: str,
) -> None:
    job = make_job(
        input=json.dumps(value),
        priority=priority,
        timeout_s=timeout,
        deadline_at=deadline,
        reply_to=reply_to,
        trace=trace,
        tenant=tenant,
    )
    raw = encode(job, "penstock")
    read = decode(raw)
    assert read is not None
    if read.input is None:
        assert as_kombu(raw).payload[0] == [{"$penstock": {"job": job.id}}]
    else:
        assert json.loads(read.input) == value
        assert as_kombu(raw).payload[0] == [value]
    assert (read.id, read.model, read.version, read.lane, read.tenant) == (
        job.id,
        "embed",
        "",
        "interactive",
        tenant,
    )
    assert (read.priority, read.timeout_s, read.deadline_at) == (priority, timeout, deadline)
    assert (read.reply_to, read.trace) == (reply_to, trace)
    assert id_of(raw) == job.id


def test_a_stored_job_carries_its_attempt() -> None:
    job = Job(
        id=new_id(),
        model="embed",
        version="1",
        lane="interactive",
        tenant="default",
        priority=0,
        state=JobState.ACCEPTED,
        attempt=3,
        input={"text": "hello"},
        output=None,
        error=None,
        available_at=1.0,
        deadline_at=None,
        timeout_s=None,
        idempotency_key=None,
        webhook=None,
        ledger=Ledger(accepted_at=1.0),
    )
    raw = encode(job, "penstock")
    read = decode(raw)
    assert read is not None
    assert read.input == '{"text":"hello"}'
    assert json.loads(raw)["headers"]["penstock"]["attempt"] == 3, "for whoever looks at the message"


@pytest.mark.parametrize("text", ["x" * 100_000, '"' * 3_000, "\\" * 600, "ü" * 3_000, "\x01" * 400])
def test_a_message_is_never_longer_than_2_kib(text: str) -> None:
    job = make_job(
        input=json.dumps(text, ensure_ascii=False),
        trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        reply_to=new_id(),
        deadline_at=1_700_000_000.123456,
        timeout_s=600.0,
        tenant="a-tenant-with-a-longer-name",
    )
    assert len(encode(job, "penstock")) <= 2048


def test_a_large_input_stays_in_sql() -> None:
    job = make_job(input=json.dumps("x" * (MAX_BODY_BYTES + 1)))
    raw = encode(job, "penstock")
    read = decode(raw)
    assert read is not None
    assert read.input is None
    assert as_kombu(raw).payload[0] == [{"$penstock": {"job": job.id}}]


def test_an_input_that_looks_like_a_reference_is_an_input() -> None:
    job = make_job(input='{"$penstock":{"job":"another"}}')
    read = decode(encode(job, "penstock"))
    assert read is not None
    assert read.input == job.input


def test_a_body_that_was_written_anew_is_read() -> None:
    """Stock kombu decodes and encodes a message that it restores."""
    payload = json.loads(encode(make_job(input='[1, {"a": "b"}]'), "penstock"))
    payload["body"] = json.dumps(json.loads(payload["body"]), indent=1)
    payload["headers"]["redelivered"] = True
    read = decode(json.dumps(payload).encode())
    assert read is not None
    assert read.input is not None
    assert json.loads(read.input) == [1, {"a": "b"}]


def test_a_message_with_the_mark_of_a_restored_one_is_read() -> None:
    job = make_job()
    read = decode(encode(job, "penstock")[:-1] + b',"redelivered":true}')
    assert read is not None
    assert read.id == job.id


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"headers": {}, "properties": {}, "body": ""}',
        b'{"headers": {"id": "x", "penstock": {"v": 2, "plain": true}}, '
        b'"properties": {"body_encoding": "utf-8"}, "body": "[[1],{},{}]"}',
        b'{"headers": {"id": "x", "penstock": {"v": 1, "plain": true}}, '
        b'"properties": {"body_encoding": "utf-8"}, "body": "[[1,2],{},{}]"}',
    ],
)
def test_anything_else_is_not_plain(raw: bytes) -> None:
    assert decode(raw) is None


# Canvas ---------------------------------------------------------------------------------------------------------


def canvas_message(app: Celery, *args: Any, **options: Any) -> Any:
    return app.amqp.as_task_v2("task-1", "penstock.embed", args=list(args), **options)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(["hello"], {}), (["hello", 2], {}), ([], {"text": "hello"}), ([{"deep": [1, None]}], {})],
)
def test_a_canvas_message_is_rebuilt_exactly(app: Celery, args: list[Any], kwargs: dict[str, Any]) -> None:
    link = app.signature("after", args=(1,), queue="elsewhere")
    message = canvas_message(
        app,
        *args,
        kwargs=kwargs,
        callbacks=[link],
        chain=[app.signature("next")],
        chord=app.signature("body"),
        group_id="g",
        group_index=2,
        root_id="root",
        parent_id="parent",
        retries=1,
        expires="2030-01-01T00:00:00+00:00",
    )
    body = json.dumps(message.body)
    canvas = canvas_of(
        message.headers | {"redelivered": True},
        body,
        message.properties | {"delivery_tag": "t", "delivery_info": {"exchange": ""}, "priority": 4},
    )
    rebuilt = as_kombu(
        encode_canvas(canvas, input=json.dumps("hello" if args == ["hello"] else args[0] if args else None),
                      queue="penstock.embed.interactive", priority=4)
    )  # fmt: skip
    assert rebuilt.headers == json.loads(json.dumps(message.headers))
    assert rebuilt.payload == json.loads(body)
    assert rebuilt.properties["correlation_id"] == "task-1"
    assert rebuilt.properties["priority"] == 4
    assert rebuilt.delivery_info["routing_key"] == "penstock.embed.interactive"


def test_the_input_is_not_kept_twice(app: Celery) -> None:
    message = canvas_message(app, "a long input" * 100, chain=[app.signature("next")])
    canvas = canvas_of(message.headers | {"argsrepr": ""}, json.dumps(message.body), message.properties)
    assert "a long input" not in canvas
    _, (args, kwargs, embed), _ = open_canvas(canvas, json.dumps("the input"))
    assert (args, kwargs) == (["the input"], {})
    assert embed["chain"][0]["task"] == "next"


def test_marked_values_survive_when_the_body_is_given_as_text(app: Celery) -> None:
    """kombu writes dates and the like as marked objects; their text must come out as it went in."""
    body = '[[{"__type__": "datetime", "__value__": "2030-01-01T00:00:00"}], {}, {"chain": null}]'
    message = canvas_message(app, 1)
    canvas = canvas_of(message.headers, body, message.properties)
    raw = encode_canvas(canvas, input='{"__type__":"datetime","__value__":"2030-01-01T00:00:00"}', queue="q")
    assert json.loads(json.loads(raw)["body"])[0] == json.loads(body)[0]


def test_a_canvas_job_is_sent_as_its_celery_message(app: Celery) -> None:
    message = canvas_message(app, "hello", chain=[app.signature("next")])
    canvas = canvas_of(message.headers, json.dumps(message.body), message.properties)
    raw = encode(make_job(id="task-1", canvas=canvas), "penstock")
    assert decode(raw) is None  # Celery's path
    assert id_of(raw) == "task-1"
    assert as_kombu(raw).payload == json.loads(json.dumps(message.body))


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
def test_canvas_is_what_celery_must_go_on_with(name: str) -> None:
    nothing = {"callbacks": None, "errbacks": [], "chain": None, "chord": None}
    assert not is_canvas({"group": None}, nothing)
    assert is_canvas({"group": None}, nothing | {name: [{}]})
    assert is_canvas({"group": "g"}, nothing)


def test_a_message_says_when_the_step_of_a_run_should_begin_and_others_do_not() -> None:
    plain = make_job(deadline_at=20.0)
    assert b"start_by" not in encode(plain, "penstock")
    step = make_job(deadline_at=20.0, start_by=-17.125, run_id="run", path="a")
    for each, start_by in ((plain, None), (step, -17.125), (make_job(start_by=1.7e9), 1.7e9)):
        read = decode(encode(each, "penstock"))
        assert read is not None and (read.start_by, read.deadline_at) == (start_by, each.deadline_at)
