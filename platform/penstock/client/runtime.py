"""What a client holds open in one process: store, publisher, submitter, push, partial output."""

from __future__ import annotations

import os
from uuid import uuid4

from penstock.client.push import Push
from penstock.dispatch.background import Background
from penstock.dispatch.service import Submitter
from penstock.registry import Source
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.progress import ProgressLog
from penstock.transport.publisher import Publisher


class Runtime:
    """Built on a client's first call, since connections and threads do not survive a fork."""

    def __init__(self, settings: Settings, registry: Source | None) -> None:
        self.pid = os.getpid()
        #: Names the channel on which results are pushed to this client.
        self.client_id = uuid4().hex
        self.store = Store.open(settings.database)
        self.publisher = Publisher(settings.broker, settings.namespace)
        self.progress = ProgressLog(settings.broker, settings.namespace)
        self.background = Background()
        self.push = Push(settings.broker, settings.namespace, self.client_id, self.background)
        self.submitter = Submitter(
            settings,
            self.store,
            self.publisher,
            background=self.background,
            registry=registry,
            reply_to=self.client_id,
        )

    def check(self) -> None:
        """See ``Client.check``."""
        self.store.check()
        self.publisher.check()
        self.submitter.ownership.compare()

    def close(self) -> None:
        """Wake whoever waits, record what was published, close the connections."""
        if self.pid != os.getpid():
            return
        self.push.close()
        self.submitter.close()
        self.background.close()
        self.publisher.close()
        self.progress.close()
        self.store.close()


#: Runtimes of the parent process. They are kept, since closing a connection that a parent uses can break it there
#: (SQLite's locks, the end of a TLS session).
_of_parents: list[Runtime] = []


def abandon(runtime: Runtime) -> None:
    """Forget a runtime that this process inherited by a fork, without touching its connections."""
    _of_parents.append(runtime)
