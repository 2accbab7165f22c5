"""Celery's remote control commands, where a model is meant: each does what it says, or says that it does not.

Celery's commands change or list its own requests and its execution pool; models use neither. So each command that could
concern a model is replaced by one that looks whether it does, and hands everything else to Celery's. They run on the
hub thread, and answer at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.control import Panel, control_command

from penstock.errors import safe_text
from penstock.lane import LANES
from penstock_worker.canvas import revoked
from penstock_worker.canvas.stamps import is_stamped
from penstock_worker.canvas.tasks import ModelTask

#: What is said of a pool that cannot grow.
ONE_DEVICE = "a penstock worker owns one device and runs one batch at a time: start more workers instead"

_Command = Callable[..., Any]


def install() -> None:
    """Replace the commands in this process, and add ours. Idempotent."""
    for command, args, help in (
        (penstock_look, (), "Have the worker look at its slot now."),
        (penstock_park, (), "Have a worker without a slot stay loaded, and not consume."),
        (penstock_wake, (), "Have a parked worker without a slot consume again."),
    ):
        if command.__name__ not in Panel.data:
            control_command(args=args, help=help)(command)
    for name, ours in _OURS.items():
        stock = Panel.data[name]
        if getattr(stock, "penstock", False):
            continue
        command = _beside(stock, ours)
        for known, function in list(Panel.data.items()):
            if function is stock:  # under its alias, too
                Panel.data[known] = command


def _beside(stock: _Command, ours: _Command) -> _Command:
    def command(state: Any, *args: Any, **kwargs: Any) -> Any:
        serving = _serving_of(state)
        return stock(state, *args, **kwargs) if serving is None else ours(stock, serving, state, *args, **kwargs)

    command.penstock = True  # type: ignore[attr-defined]
    command.__name__ = stock.__name__
    command.__doc__ = stock.__doc__
    return command


def nok(text: str) -> dict[str, str]:
    """An answer that says why not."""
    return {"error": text}


def _model_of(state: Any, name: Any) -> str | None:
    task = state.app.tasks.get(name) if isinstance(name, str) else None
    return task.penstock_model.name if isinstance(task, ModelTask) else None


# Parking ------------------------------------------------------------------------------------------------------


def penstock_look(state: Any) -> dict[str, str]:
    """Sent when a slot has changed: the row says what to do, this only makes it quick."""
    serving = _serving_of(state)
    if serving is None or not serving.look():
        return nok("this worker has no slot: penstock_park and penstock_wake")
    return {"ok": "the slot is looked at"}


def penstock_park(state: Any) -> dict[str, str]:
    """Stay loaded, and do not consume."""
    return _park(state, True)


def penstock_wake(state: Any) -> dict[str, str]:
    """Consume again."""
    return _park(state, False)


def _park(state: Any, parked: bool) -> dict[str, str]:
    serving = _serving_of(state)
    return nok("no models are served here") if serving is None else {"ok": serving.park(parked)}


def _serving_of(state: Any) -> Any:
    return getattr(getattr(state.consumer, "controller", None), "penstock", None)


# Limits -------------------------------------------------------------------------------------------------------


def _rate_limit(stock: _Command, serving: Any, state: Any, task_name: Any, rate_limit: Any, **kwargs: Any) -> Any:
    if _model_of(state, task_name) is None:
        return stock(state, task_name=task_name, rate_limit=rate_limit, **kwargs)
    return nok(
        f"{task_name} is a model, and models have no rate limit: `penstock tenant set NAME --cap N` bounds how many "
        "jobs of a tenant run at a time"
    )


def _time_limit(
    stock: _Command, serving: Any, state: Any, task_name: Any = None, hard: Any = None, soft: Any = None, **kwargs: Any
) -> Any:
    model = _model_of(state, task_name)
    if model is None:
        return stock(state, task_name=task_name, hard=hard, soft=soft, **kwargs)
    if soft is not None:
        return nok(f"{task_name} is a model, whose predict() cannot be interrupted: it has a hard time limit only")
    try:
        timeout_s = None if hard is None else float(hard)
    except (TypeError, ValueError):
        timeout_s = math.nan
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        return nok(f"{safe_text(hard)} is no time limit: seconds, more than 0")
    set_to = serving.engine.intake.set_timeout(model, timeout_s)
    return {
        "ok": f"attempts of {task_name} that this worker claims from now on have {set_to:g} s, unless their jobs say "
        "otherwise; until it restarts"
    }


# Revoking -----------------------------------------------------------------------------------------------------


def _revoke(stock: _Command, serving: Any, state: Any, task_id: Any = None, **kwargs: Any) -> Any:
    ids = [id for id in dict.fromkeys(maybe_list(task_id) or []) if isinstance(id, str)]
    plain = [id for id in ids if (held := worker_state.requests.get(id)) and not isinstance(held.task, ModelTask)]
    answer = stock(state, plain, **kwargs) if plain else None
    jobs = [id for id in ids if id not in plain]
    if jobs:
        # Before SQL is asked: what is on its way in is dropped by it.
        revoked.add(jobs)
        serving.revoke(jobs, unknown=lambda left: stock(state, left))
    if answer is not None and "error" in answer:
        return answer
    return {"ok": f"tasks {ids} flagged as revoked"}


def _terminate(stock: _Command, serving: Any, state: Any, signal: Any, task_id: Any = None, **kwargs: Any) -> Any:
    return Panel.data["revoke"](state, task_id, terminate=True, signal=signal)


def _revoke_by_stamped_headers(
    stock: _Command, serving: Any, state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> Any:
    if isinstance(headers, list):
        headers = dict(part.split("=", 1) for part in headers if isinstance(part, str) and "=" in part)
    if not isinstance(headers, Mapping) or not headers:
        return nok("no stamped header to revoke by: pass {name: [value, …]}")
    requests = list(worker_state.requests.values())
    jobs = [request.id for request in requests if isinstance(request.task, ModelTask) and is_stamped(request, headers)]
    if jobs:
        revoked.add(jobs)
        serving.revoke(jobs)
    # Celery would end this process for a running model: what is plain may be terminated, a model's job is cancelled.
    running = [request for request in worker_state.active_requests if isinstance(request.task, ModelTask)]
    for request in running:
        worker_state.active_requests.discard(request)
    try:
        answer = stock(state, headers=dict(headers), terminate=terminate, signal=signal, **kwargs)
    finally:
        for request in running:
            worker_state.active_requests.add(request)
    return {"ok": f"headers {dict(headers)} revoked; jobs cancelled here: {len(jobs)}"} if jobs else answer


# Looking ------------------------------------------------------------------------------------------------------


def _active(stock: _Command, serving: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
    return [*stock(state, *args, **kwargs), *serving.holdings.active()]


def _reserved(stock: _Command, serving: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
    return [*stock(state, *args, **kwargs), *serving.holdings.reserved()]


def _query_task(stock: _Command, serving: Any, state: Any, ids: Any, **kwargs: Any) -> Any:
    wanted: Iterable[str] = [id for id in maybe_list(ids) or [] if isinstance(id, str)]
    return {**serving.holdings.query(wanted), **stock(state, wanted, **kwargs)}


def _stats(stock: _Command, serving: Any, state: Any, **kwargs: Any) -> Any:
    return {
        **stock(state, **kwargs),
        "penstock": serving.holdings.counts() | ({"parked": True} if serving.parking.parked else {}),
    }


# What a worker of models has not ------------------------------------------------------------------------------


def _no_pool(stock: _Command, serving: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
    return nok(ONE_DEVICE)


def _no_restart(stock: _Command, serving: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
    return nok("a penstock worker has no pool to restart: shut it down, and its supervisor or service starts another")


def _consumer(stock: _Command, serving: Any, state: Any, queue: Any, *args: Any, **kwargs: Any) -> Any:
    namespace = state.app.penstock.settings.namespace
    if isinstance(queue, str) and queue.startswith(f"{namespace}.") and queue.rpartition(".")[2] in LANES:
        return nok(f"{queue} is a model's queue: which ones a worker serves is decided by its models and its pool")
    return stock(state, queue, *args, **kwargs)


# Events -------------------------------------------------------------------------------------------------------


def _events(on: bool) -> _Command:
    def switch(stock: _Command, serving: Any, state: Any, **kwargs: Any) -> Any:
        answer = stock(state, **kwargs)
        if "ok" in answer:
            serving.engine.announcer.tells_monitors = on
        return answer

    return switch


_OURS: Mapping[str, _Command] = {
    "rate_limit": _rate_limit,
    "time_limit": _time_limit,
    "revoke": _revoke,
    "terminate": _terminate,
    "revoke_by_stamped_headers": _revoke_by_stamped_headers,
    "active": _active,
    "reserved": _reserved,
    "query_task": _query_task,
    "stats": _stats,
    "pool_grow": _no_pool,
    "pool_shrink": _no_pool,
    "autoscale": _no_pool,
    "pool_restart": _no_restart,
    "add_consumer": _consumer,
    "cancel_consumer": _consumer,
    "enable_events": _events(True),
    "disable_events": _events(False),
}
