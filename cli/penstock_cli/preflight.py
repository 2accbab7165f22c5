"""A look at the servers before a command that needs them, within a second: no hang and no half-done work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from penstock.errors import BrokerUnavailable
from penstock_cli.context import App


def check(app: App, *, broker: bool = True, store: bool = True) -> None:
    """Raise ``BrokerUnavailable``, ``StoreUnavailable`` or ``SchemaOutdated``; both servers are asked at once.

    Of both it is also asked whether they belong together: ``NamespaceTaken``.
    """
    from penstock_cli.servers import check_broker, check_owner

    with ThreadPoolExecutor(2, thread_name_prefix="penstock-preflight") as pool:
        answers = []
        if store:
            answers.append(pool.submit(app.store.check))
        if broker:
            answers.append(pool.submit(check_broker, app.settings))
        for answer in answers:
            answer.result()
    if store and broker:
        check_owner(app.settings, app.store)


@contextmanager
def told_here() -> Iterator[None]:
    """The client's log says nothing of a broker that is away: the command does, in words for people."""
    log = logging.getLogger("penstock.dispatch.fastpath")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def broker_answers(app: App) -> bool:
    """Whether the broker is there; for commands that can do without it."""
    try:
        check(app, store=False)
    except BrokerUnavailable:
        return False
    return True


def look(app: App, model: str) -> None:
    """Have the client know the model's load: a process that submits one job has none that it could have read before."""
    app.client.look(model)
