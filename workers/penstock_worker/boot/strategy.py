"""From Celery's message to the batcher: canvas members and the messages of programs without penstock.

Plain penstock jobs do not come this way; the transport hands them to ``Intake.take`` directly. This strategy is what
Celery calls for every other message of a model's task. Unlike Celery's own it keeps no message for later: an ETA
goes to SQL, and revocation and expiry are settled in SQL first, so that the row and Celery's state agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import signals
from celery.worker import state as worker_state
from celery.worker.request import create_request_cls  # type: ignore[attr-defined]
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2  # type: ignore[attr-defined]
from kombu.utils.imports import symbol_by_name

from penstock.transport.readable import while_reading
from penstock_worker.canvas.aside import set_aside


def model_strategy(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Celery's hook: the message handler of one task type."""
    eventer = consumer.event_dispatcher
    request_cls = create_request_cls(
        symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, eventer, app=app
    )

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        try:
            take(message, body, ack, reject, callbacks)
        except Exception as error:
            if not while_reading(error):
                raise  # a server refuses: the message is good
            # It would end this worker, and the next one that is given the message. Celery would drop what it rejects
            # itself; kept, it tells the dispatcher that no message of this job can be read.
            set_aside(message, error)

    def take(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        if body is None and "args" not in message.payload:
            body, headers, decoded, utc = message.body, message.headers, False, app.uses_utc_timezone()
        elif "args" in message.payload:
            body, headers, decoded, utc = hybrid_to_proto2(message, message.payload)
        else:
            body, headers, decoded, utc = proto1_to_proto2(message, body)
        request = request_cls(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=consumer.hostname,
            eventer=eventer,
            task=task,
            connection_errors=consumer.connection_errors,
            body=body,
            headers=headers,
            decoded=decoded,
            utc=utc,
        )
        signals.task_received.send(sender=consumer, request=request)
        request.send_event(
            "task-received",
            name=request.name,
            args=request.argsrepr,
            kwargs=request.kwargsrepr,
            root_id=request.root_id,
            parent_id=request.parent_id,
            retries=request.request_dict.get("retries", 0),
            eta=request.eta and request.eta.isoformat(),
            expires=request.expires and request.expires.isoformat(),
        )
        worker_state.task_reserved(request)
        for callback in callbacks or ():
            callback()
        try:
            task.take(consumer, message, request)
        except Exception:
            worker_state.task_ready(request)
            raise

    return on_message
