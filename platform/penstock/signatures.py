"""Celery signatures of models, and what they carry of a job: ``embed.using(tenant="acme").s("x")``.

What Celery has a word for is said in its words (queue, priority, expires, time limit, countdown), so that every Celery
program and monitor understands it. The rest is an option ``penstock``, which Celery makes a property of the message: of
its headers, a program's own ``apply_async(headers=…)`` would leave nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from celery import chain, chord, group, signature
from celery.canvas import Signature

from penstock import clock
from penstock.app import plain_settings, sender
from penstock.codec import codec_of
from penstock.dispatch.request import terms
from penstock.eager import Inline
from penstock.lane import LANES, PIPELINES, Lane, queue_name, split_name, task_name
from penstock.model import Model
from penstock.options import CARRIED, CARRIER, Options
from penstock.payload import for_celery
from penstock.pipelines.canvas.series import Canvas, Chain, Group, Task
from penstock.pipelines.writing.pipeline import Pipeline


def model_signature(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    immutable: bool = False,
    model: type[Model] | Pipeline | None = None,
    **options: Unpack[Options],
) -> Signature:
    """A signature that any Celery program on the same broker can send, and a program without Celery app too.

    ``name`` may say a version: ``"embed@2"``. ``options`` as of ``Client.enqueue``, see ``celery_options``. Arrays and
    records in the arguments become lists and dicts; what Celery would change is refused (``NotSerializable``), but for
    what the item type declares, where ``model`` is given: its class, or the pipeline of this name. With that it can run
    in this process, too, where Celery is told so (``eager``).
    """
    plain, version = split_name(name)
    namespace = plain_settings().namespace
    said = celery_options(options)
    place = PIPELINES if isinstance(model, Pipeline) else plain
    said["queue"] = queue_name(namespace, place, Lane(options.get("lane") or Lane.INTERACTIVE), version)
    inline: Any = Inline(task_name(namespace, plain), model, sender)
    # The whole item, where it is one argument, may be whatever its type declares.
    one = isinstance(model, type) and len(args) == 1 and not kwargs and not hasattr(model, "of_function")
    whole = codec_of(model) if isinstance(model, type) and one else None
    given = tuple(for_celery(plain, value, whole) for value in args)
    named = {key: for_celery(plain, value) for key, value in kwargs.items()}
    return signature(inline, args=given, kwargs=named, options=said, immutable=immutable, app=sender())


def signature_of(canvas: Canvas) -> Signature:
    """The signatures of a pipeline that is a canvas."""
    if isinstance(canvas, Task):
        return model_signature(canvas.model, canvas.args, {}, immutable=canvas.immutable)
    if isinstance(canvas, Chain):
        return chain(*map(signature_of, canvas.parts))
    if isinstance(canvas, Group):
        return group(list(map(signature_of, canvas.members)), app=sender())
    return chord(list(map(signature_of, canvas.header)), signature_of(canvas.body), app=sender())


def celery_options(options: Options) -> dict[str, Any]:
    """The options of a request as a signature's; raises as ``Client.enqueue`` does.

    Times count from when the message is sent, in a chain from the end of the step before. There is no idempotency key:
    a task's id is its job's.
    """
    if not options or (options.keys() == {"lane"} and options["lane"] in LANES):
        return {}
    if "idempotency_key" in options:
        raise TypeError("a signature has no idempotency_key: its task id is the key, apply_async(task_id=…)")
    for name in ("max_parallel", "budget"):
        if options.get(name) is not None:
            raise TypeError(f"a signature has no {name}: say it of the run, client.enqueue(canvas, {name}=…)")
    allow_private, now = plain_settings().webhook.allow_private, clock.now()
    checked = terms(now=now, default_lane=Lane.INTERACTIVE, allow_private=allow_private, **options)
    said: dict[str, Any] = {}
    if "priority" in options:
        said["priority"] = checked.priority
    if (deadline := options.get("deadline")) is not None:
        said["expires"] = deadline
    if checked.timeout_s is not None:
        said["time_limit"] = checked.timeout_s
    if delay := options.get("delay"):
        said["countdown"] = float(delay)
    values = {name: getattr(checked, name) for name in CARRIED if options.get(name) is not None}
    if values:
        said[CARRIER] = values
    return said
