"""Messages of programs that know nothing of penstock, malformed ones among them: none stops the worker."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain
from celery.exceptions import TaskRevokedError

from penstock import Client
from penstock.dispatch.catalog import Target
from penstock.errors import JobNotFound, Rejected
from penstock.job import Job, JobState, new_id
from penstock.lane import queue_name
from penstock.options import Options
from penstock.settings import Settings
from penstock.signatures import celery_options
from penstock.store import Store
from penstock.transport import inspect, keys
from penstock.transport.url import connect, for_kombu
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What the store refuses is the same on both (``tests/contract``)."""
    return sqlite_url


class Stranger:
    """Writes Celery messages by hand."""

    def __init__(self, settings: Settings) -> None:
        url = for_kombu(settings.broker).url
        self.app = Celery("stranger", broker=url, backend=url, set_as_current=False)
        self.broker = connect(settings.broker)
        self.store = Store.open(settings.database)
        self.namespace = settings.namespace
        self.queue = queue_name(settings.namespace, "echo", "interactive")

    def send(
        self, args: Any = ("x",), kwargs: Any = None, *, properties: Any = None, body: Any = None, **headers: Any
    ) -> Any:
        """The id of a message for the model ``echo``, with these headers."""
        task = self.app.amqp.as_task_v2(new_id(), f"{self.namespace}.echo", args=list(args), kwargs=kwargs)
        message = {
            "body": json.dumps(body or task.body),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": task.headers | headers,
            "properties": {
                **task.properties,
                "delivery_info": {"exchange": "", "routing_key": self.queue},
                "body_encoding": "utf-8",
                "delivery_tag": new_id(),
                **(properties or {}),
            },
        }
        self.broker.lpush(keys.list_key(self.queue, 0), json.dumps(message))
        return message["headers"]["id"]

    def produce(self, model: str, value: Any, **options: Any) -> str:
        """The id of a message that Celery itself makes."""
        queue = queue_name(self.namespace, model, "interactive")
        return self.app.send_task(f"{self.namespace}.{model}", args=[value], queue=queue, **options).id

    def follow(self, embed: dict[str, Any]) -> str:
        """The id of a message for ``echo`` of which Celery is to do something afterwards."""
        task = self.app.amqp.as_task_v2(new_id(), f"{self.namespace}.echo", args=["x"])
        args, kwargs, own = task.body
        return str(self.send(body=[args, kwargs, own | embed], id=task.headers["id"]))

    def known(self, id: str) -> bool:
        try:
            return bool(self.store.get(id))
        except JobNotFound:
            return False

    def ended(self, id: str) -> Job:
        def look() -> Job | None:
            try:
                job = self.store.get(id)
            except JobNotFound:
                return None
            return job if job.state.is_terminal else None

        return wait_for(look, what=f"job {id} to end")

    def set_aside(self) -> int:
        return self.broker.llen(keys.dead(self.namespace))

    def holds_nothing(self) -> bool:
        depths = inspect.depths(self.broker, self.namespace, [self.queue])
        return not any(depth.total for depth in depths.values())

    def close(self) -> None:
        self.store.close()
        self.broker.close()
        celeryapps.close(self.app)


@pytest.fixture
def stranger(settings: Settings, worker_factory: Callable[..., Worker]) -> Iterator[Stranger]:
    worker = worker_factory()
    stranger = Stranger(settings)
    yield stranger
    assert stranger.ended(stranger.send(["still here"])).output == "still here"
    wait_for(stranger.holds_nothing, what="every message to be acknowledged")
    assert worker.popen.poll() is None
    stranger.close()


FAULTY: dict[str, dict[str, Any]] = {
    "half a pair in an argument": {"args": ["\udc80"]},
    "half a pair in a keyword": {"args": [], "kwargs": {"\udc80": 1}},
    "half a pair in a header": {"note": "\udc80"},
    "half a pair, later": {"args": ["\udc80"], "eta": "2100-01-01T00:00:00"},
    "a time limit that is text": {"timelimit": ["abc", None]},
    "a time limit in the past": {"timelimit": [-1.0, None]},
    "time limits that are a number": {"timelimit": 7},
    "both kinds of arguments": {"args": ["x"], "kwargs": {"a": 1}},
}


def test_a_faulty_message_fails_its_job(stranger: Stranger) -> None:
    sent = {fault: stranger.send(**fields) for fault, fields in FAULTY.items()}
    ended = {fault: stranger.ended(id) for fault, id in sent.items()}
    assert {job.state for job in ended.values()} == {JobState.FAILED}, ended
    assert {(job.error or {}).get("code") for job in ended.values()} == {"invalid_input", "not_serializable"}, ended
    for id in sent.values():
        with pytest.raises(Exception, match=r"\w"):
            stranger.app.AsyncResult(id).get(timeout=PATIENCE_S)
    assert not stranger.set_aside()


def test_a_priority_that_is_none_is_the_lowest_or_highest(stranger: Stranger) -> None:
    wanted = [("high", 0), ([1], 0), (1e300, 9), (-5, 0), (None, 0), (3, 3)]
    sent = [(stranger.send(properties={"priority": priority}), stored) for priority, stored in wanted]
    assert [stranger.ended(id).priority for id, _ in sent] == [stored for _, stored in sent]


def test_a_message_whose_id_cannot_be_a_jobs_is_set_aside(stranger: Stranger) -> None:
    absurd = ["a\0b", "\ud83d", "", "x" * 256, 7, None, ["x"]]
    for id in absurd:
        stranger.send(id=id)
    wait_for(lambda: stranger.set_aside() == len(absurd), what="the messages to be set aside")


COMPRESSIONS = [None, "gzip", "zlib"]


def test_a_compressed_message_waits_for_its_time(stranger: Stranger, dispatcher: Any) -> None:
    ids = [stranger.produce("echo", how, countdown=0.5, compression=how) for how in COMPRESSIONS]
    assert [stranger.ended(id).output for id in ids] == COMPRESSIONS


def test_a_compressed_message_is_tried_again(stranger: Stranger, dispatcher: Any, tmp_path: Path) -> None:
    ids = [stranger.produce("flaky", [str(tmp_path / str(how)), 1], compression=how) for how in COMPRESSIONS]
    assert [(stranger.ended(id).output, stranger.ended(id).attempt) for id in ids] == [(2, 2)] * len(COMPRESSIONS)


def test_a_compressed_message_outlives_its_worker(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, tmp_path: Path
) -> None:
    first = worker_factory()
    stranger = Stranger(settings)
    ran = tmp_path / "ran"
    ids = [stranger.produce("ledgered", [str(ran), how, 1.0], compression=how) for how in COMPRESSIONS]
    wait_for(ran.exists, what="the first batch")
    first.kill()
    worker_factory()
    assert [stranger.ended(id).output for id in ids] == COMPRESSIONS
    stranger.close()


def test_protocol_1(stranger: Stranger, dispatcher: Any, tmp_path: Path) -> None:
    """Its time, its tries and its callbacks: what it says in its body is kept with the job."""
    stranger.app.conf.task_protocol = 1
    at = datetime(2020, 1, 2, tzinfo=UTC)
    then = stranger.app.signature(f"{stranger.namespace}.echo", args=(at,), immutable=True, task_id=new_id())
    then.set(queue=stranger.queue)
    waits = stranger.produce("echo", "later", countdown=0.3, link=then)
    eta = stranger.produce("echo", "then", eta=datetime.now(UTC) + timedelta(seconds=0.3))
    again = stranger.produce("flaky", [str(tmp_path / "tries"), 1])
    both = stranger.produce("flaky", [str(tmp_path / "both"), 1], countdown=0.3)
    late = stranger.produce("echo", "late", countdown=0.5, expires=0.1)
    assert [stranger.ended(id).output for id in (waits, eta, again, both)] == ["later", "then", 2, 2]
    assert stranger.ended(late).status == "expired"
    # A date is still one in a callback's arguments: refused by its name, and not taken for text.
    assert "datetime" in str(stranger.ended(then.id).error)
    assert stranger.app.AsyncResult(waits).get(timeout=PATIENCE_S) == "later"
    assert not stranger.set_aside()


def test_an_expiry_beyond_all_dates_is_rejected(stranger: Stranger) -> None:
    stranger.send(expires="99999-01-01T00:00:00")
    wait_for(stranger.holds_nothing, what="the rejection")


def test_one_that_cannot_be_stored_costs_its_mates_nothing(stranger: Stranger) -> None:
    ids = [stranger.send([text]) for text in ("one", "\udc80", "two")]
    assert [stranger.ended(id).state.value for id in ids] == ["succeeded", "failed", "succeeded"]


#: What follows in Celery's own terms: here as a producer of another make would write it.
UNREADABLE: dict[str, dict[str, Any]] = {
    "a chord that is a number": {"chord": 7},
    "a chord that is text": {"chord": "tasks.report"},
    "a chord without a task": {"chord": {"args": []}},
    "a callback that is a number": {"callbacks": [7]},
    "callbacks that are a number": {"callbacks": 7},
    "an errback that is a number": {"errbacks": [7]},
    "a chain of numbers": {"chain": [7, 8]},
}


def test_what_cannot_follow_a_job_fails_it_by_name(stranger: Stranger) -> None:
    for fault, embed in UNREADABLE.items():
        id = stranger.follow(embed)
        job = stranger.ended(id)
        assert job.state is JobState.FAILED and (job.error or {})["code"] == "invalid_input", (fault, job)
        assert next(iter(embed)) in (job.error or {})["message"], fault
        with pytest.raises(Exception, match="no Celery signature"):
            stranger.app.AsyncResult(id).get(timeout=PATIENCE_S)


def test_an_expiry_before_its_time_is_told(stranger: Stranger, dispatcher: Any) -> None:
    id = stranger.produce("echo", 1, countdown=3600, expires=0.5)
    assert stranger.ended(id).state is JobState.EXPIRED
    with pytest.raises(TaskRevokedError):
        stranger.app.AsyncResult(id).get(timeout=PATIENCE_S)


def test_an_id_that_another_models_job_has_settles_nothing_of_it(stranger: Stranger, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = stranger.produce("gated", str(gate))
    wait_for(lambda: stranger.known(first), what="the first to be a job")
    stranger.produce("inc", 41, task_id=first)
    gate.touch()
    job = stranger.ended(first)
    assert (job.model, job.output) == ("gated", str(gate))
    assert stranger.app.AsyncResult(first).get(timeout=PATIENCE_S) == str(gate)
    stranger.produce("inc", 41, task_id=first)  # and once it has ended
    assert stranger.ended(stranger.produce("inc", 1)).output == 2
    assert (stranger.ended(first).model, stranger.ended(first).output) == ("gated", str(gate))


def test_a_soft_limit_is_the_attempts(stranger: Stranger) -> None:
    limits = [
        ({"soft_time_limit": 30}, 30.0),
        ({"time_limit": 40}, 40.0),
        ({"soft_time_limit": 5, "time_limit": 9}, 5.0),
    ]
    sent = [(stranger.produce("echo", 1, **options), timeout_s) for options, timeout_s in limits]
    assert [stranger.ended(id).timeout_s for id, _ in sent] == [timeout_s for _, timeout_s in sent]


def test_values_follow_the_rule_of_the_client(stranger: Stranger, settings: Settings) -> None:
    """The client's verdict, and its words, whoever sends the value; also when the job is started again."""
    target = Target("echo", "1")
    large = "x" * (settings.job.max_input_bytes + 1)
    strange: list[Any] = [
        math.nan,
        [1, {"a": math.inf}],
        b"\xff",
        [datetime(2024, 1, 2, tzinfo=UTC)],
        UUID(int=1),
        large,
    ]
    said = {}
    for value in strange:
        with pytest.raises(Rejected) as refused:
            target.encode(value, settings.job.max_input_bytes)
        said[stranger.produce("echo", value)] = (refused.value.code, refused.value.message)
    twins = stranger.produce("echo", {1: "a", "1": "b"})
    taken = {stranger.produce("echo", value): value for value in ([2**64, 1e308, "é\u2028"], {"a": [None, True]})}

    for id, (code, message) in said.items():
        job = stranger.ended(id)
        assert (job.state, (job.error or {})["code"], (job.error or {})["message"]) == (JobState.FAILED, code, message)
    assert "the key '1' is twice" in str(stranger.ended(twins).error)
    assert {id: stranger.ended(id).output for id in taken} == taken

    def again(id: str) -> Job | None:
        job = stranger.ended(id)
        return job if job.attempt == 2 else None

    wait_for(stranger.holds_nothing, what="no message to go round")
    with Client(settings) as client:
        for id, (code, message) in said.items():
            client.get(id).retry()
            job = wait_for(partial(again, id), what="the second attempt")
            assert ((job.error or {})["code"], (job.error or {})["message"]) == (code, message)


def test_a_signature_carries_its_job_through_a_canvas(stranger: Stranger, settings: Settings) -> None:
    """Each member has the options that it was given, and who has none is nobody's."""

    def echo(value: Any = None, **options: Any) -> Any:
        said = celery_options(Options(**options)) | {"queue": stranger.queue}
        args = () if value is None else (value,)
        return stranger.app.signature(f"{stranger.namespace}.echo", args=args, options=said)

    canvas = chain(
        echo("x", tenant="acme", tags={"run": "7"}, priority=6, timeout=30, webhook="https://example.com/x"),
        echo(tenant="umbrella", deadline=600.0),
        echo(),
    )
    last = canvas.apply_async()
    third, second, first = (stranger.ended(each.id) for each in (last, last.parent, last.parent.parent))
    assert (first.output, second.output, third.output) == ("x", "x", "x")
    assert (first.tenant, first.tags, first.priority, first.timeout_s) == ("acme", {"run": "7"}, 6, 30.0)
    assert first.webhook == "https://example.com/x"
    assert [event.job_id for event in stranger.store.list_deliveries()] == [first.id]
    assert (second.tenant, second.tags, second.webhook) == ("umbrella", {}, None)
    assert second.deadline_at == pytest.approx(second.ledger.accepted_at + 600, abs=60)
    assert (third.tenant, third.deadline_at) == ("default", None)


@pytest.mark.parametrize("said", [{"tenant": 7}, {"tags": ["x"]}, {"webhook": "http://127.0.0.1/"}])
def test_a_header_that_is_wrong_fails_its_job(stranger: Stranger, said: dict[str, Any]) -> None:
    job = stranger.ended(stranger.send(penstock=said))
    assert job.state is JobState.FAILED and job.error is not None
    assert job.error["code"] == "invalid_input"
    assert (job.tenant, job.webhook) == ("default", None)


@pytest.mark.parametrize("way", ["header", "option"])
def test_a_flood_of_a_tenants_messages_is_not_before_another_tenants(stranger: Stranger, way: str) -> None:
    """Strangers write into the default tenant's list; a worker puts each message into that of its tenant."""
    said: dict[str, Any] = {"tenant": "acme"}
    given: dict[str, Any] = {"headers": {"penstock": said}} if way == "header" else {"penstock": said}
    queue = queue_name(stranger.namespace, "nap", "background")
    flood = [
        stranger.app.send_task(f"{stranger.namespace}.nap", args=[0.05], queue=queue, **given).id for _ in range(120)
    ]
    alone = stranger.app.send_task(f"{stranger.namespace}.nap", args=[0.05], queue=queue).id
    ended = stranger.ended(alone)
    assert ended.tenant == "default"
    before = [id for id in flood if stranger.known(id) and stranger.store.get(id).state.is_terminal]
    assert len(before) < 60, "it has waited for the flood"
    jobs = [stranger.ended(id) for id in flood]
    assert {(job.tenant, job.state) for job in jobs} == {("acme", JobState.SUCCEEDED)}
    key = keys.used(stranger.namespace)
    wait_for(lambda: float(stranger.broker.hget(key, "acme") or 0) > 1.0, what="its time to be booked")
    assert float(stranger.broker.hget(key, "default") or 0) < 1.0


def test_what_is_carried_leaves_other_programs_queues_alone(stranger: Stranger, settings: Settings) -> None:
    """Their workers know one list per queue."""
    report = stranger.app.signature("shop.report", queue="shop")
    sent = chain(
        stranger.app.signature(f"{stranger.namespace}.echo", args=["x"], queue=stranger.queue), report
    ).apply_async(headers={"penstock": {"tenant": "acme"}}, penstock={"tenant": "acme"})
    assert stranger.ended(sent.parent.id).tenant == "acme"
    wait_for(lambda: stranger.broker.llen("shop"), what="the report to be sent")
    assert [key for key in stranger.broker.scan_iter("*shop*") if b"acme" in key] == []


def test_what_is_refused_for_what_it_carries_keeps_its_input(stranger: Stranger) -> None:
    job = stranger.ended(stranger.send([{"precious": "input"}], penstock={"tenant": 7}))
    assert (job.error or {})["code"] == "invalid_input" and job.input == {"precious": "input"}


def test_a_message_of_a_tenant_waits_in_its_line_and_comes_again_to_it(stranger: Stranger, settings: Settings) -> None:
    job = stranger.ended(stranger.produce("echo", "x", headers={"penstock": {"tenant": "acme"}}))
    assert (job.tenant, job.output) == ("acme", "x")
    with Client(settings=settings) as client:
        failed = stranger.ended(stranger.produce("echo", "x", headers={"penstock": {"tenant": "acme", "tags": 7}}))
        client.get(failed.id).retry()
        wait_for(lambda: stranger.store.get(failed.id).attempt == 2, what="it to fail again")
        assert stranger.ended(failed.id).error == failed.error
