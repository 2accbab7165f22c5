"""Queues that hold messages and have no consumer: what was sent there waits for ever, and nobody says so."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import unquote

import redis
from celery.exceptions import DuplicateNodenameWarning
from kombu.exceptions import OperationalError

from penstock.app import make_celery
from penstock.lane import AT, LANES, PIPELINES, full_name, version_id
from penstock.transport import stranded
from penstock.transport.url import connect, unavailable
from penstock_cli.context import App
from penstock_cli.serving import fleet

#: How long Celery's workers have for telling what they consume, seconds. One in a solo pool is silent during a task.
ANSWER_S = 1.0


def unserved(app: App) -> dict[str, int]:
    """Ready messages by queue, where no worker that answers consumes it. Workers are asked only if there is a doubt."""
    settings = app.settings
    client = connect(settings.broker, timeout_s=2.0)
    try:
        held = stranded.holding(client, settings.namespace)
    except redis.RedisError as error:
        raise unavailable(settings.broker, error) from error
    finally:
        client.close()
    if not held:
        return {}
    consumed, heard = _consumed(app)
    # A worker that is busy with a plain task does not answer; SQL knows what it serves. Queues of versions, from which
    # workers claim beside those of the models, are in no answer at all.
    workers = fleet(app)
    mute = [w for w in workers.live if w.name not in heard or w.name in workers.namesakes]  # of namesakes, one is heard
    silent = {model for worker in mute for model in (*worker.models, PIPELINES)}
    silent |= {
        f"{model}{AT}{version_id(place.version)}" for model, places in workers.places.items() for place in places
    }
    return {
        queue: count
        for queue, count in held.items()
        if queue not in consumed and model_of(queue, settings.namespace) not in silent
    }


def model_of(queue: str, namespace: str) -> str:
    """The model whose queue this is; empty when it is none's."""
    name, _, lane = queue.removeprefix(f"{namespace}.").rpartition(".")
    return name if lane in LANES and queue.startswith(f"{namespace}.") else ""


def why(queue: str, app: App) -> str:
    """What to do about messages that nobody takes from a queue."""
    namespace = app.settings.namespace
    model = model_of(queue, namespace)
    name = unquote(model, errors="surrogatepass")  # a version is written as in a URL's path
    if model == PIPELINES:
        return "start a worker, which takes the calls of all pipelines: `penstock worker my_models`"
    if model in app.store.pipelines():
        shared = f"{namespace}.{PIPELINES}.{queue.rpartition('.')[2]}"
        return f"{model!r} is a pipeline: have your program send its messages to {shared}"
    if model:
        start = (
            f"start a worker that serves {name!r}: `penstock worker my_models`, of functions `penstock worker --pool"
            " cpu my_models`"
        )
        if any(full_name(count.model, count.version) == name for count in app.store.counts()):
            return start
        # What Celery's programs send is in SQL only when a worker has it.
        return f"no open job is left of it: `penstock queue purge {name}`; if a Celery program has sent them, {start}"
    return (
        f"start a worker of your Celery app for it (`celery -A your_app worker -Q {queue}`), or name the queue that "
        "your workers consume: PENSTOCK_CELERY__DEFAULT_QUEUE"
    )


def _consumed(app: App) -> tuple[set[str], set[str]]:
    """The queues that Celery's workers say they consume, and who has said something."""
    celery: Any = make_celery(app.settings)
    # kombu's pools, which all apps of a process share, may hold connections that have died since.
    celery.control.mailbox.producer_pool = None
    try:
        # It warns of workers of one name, in Celery's words; `doctor` does, too.
        with warnings.catch_warnings(), celery.connection_for_write() as connection:
            warnings.simplefilter("ignore", DuplicateNodenameWarning)
            answers = celery.control.inspect(timeout=ANSWER_S, connection=connection).active_queues() or {}
    except (redis.RedisError, OperationalError) as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        celery.close()
    return {queue["name"] for queues in answers.values() for queue in queues}, set(answers)
