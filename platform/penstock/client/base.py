"""What both clients share: settings, and a runtime that opens late and reopens after a fork."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from penstock.arguments import shown
from penstock.client._flow import closed
from penstock.client.runtime import Runtime, abandon
from penstock.errors import ConfigError
from penstock.model import Model
from penstock.registry import Registry, Source
from penstock.settings import Settings

_open_clients: weakref.WeakSet[BaseClient] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: what was published is still to be recorded."""
    for client in list(_open_clients):
        client._close()


def _close_elsewhere(runtime: Runtime) -> None:
    """For a client that was dropped: the garbage collector may run in a thread that holds one of its locks."""
    with suppress(RuntimeError):  # no thread starts at the interpreter's end, and then nothing is worth closing
        threading.Thread(target=runtime.close, name="penstock-close", daemon=True).start()


class BaseClient:
    """Holds no connection until the first call."""

    def __init__(
        self, settings: Settings | None = None, *, models: Iterable[type[Model] | str] | None = None, **overrides: Any
    ) -> None:
        if settings is not None and overrides:
            raise ConfigError(
                f"settings and {', '.join(sorted(overrides))} were both given",
                fix="pass one of them: Client(settings), or Client(broker_url=…, database_url=…)",
            )
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigError(
                f"settings are of type {type(settings).__name__}",
                fix="pass Settings.load(…), or single ones: Client(broker_url=…, database_url=…)",
            )
        classes: list[type[Model]] = []
        if models is not None:
            if not isinstance(models, Iterable) and not isinstance(models, type):
                raise ConfigError(f"models={shown(models)} are no models", fix="pass modules, or classes of models")
            sources = [models] if isinstance(models, (str, type)) else list(models)
            classes = [source for source in sources if not isinstance(source, str)]
            for cls in classes:
                if not isinstance(cls, type) or not issubclass(cls, Model):
                    raise ConfigError(f"{shown(cls)} is no model", fix="pass modules, or classes of models")
            overrides["models"] = [source for source in sources if isinstance(source, str)]
            if settings is not None:
                settings = settings.model_copy(update=overrides)
        #: The settings that this client was opened with.
        self.settings = settings or Settings.load(**overrides)
        #: Where inputs are to be checked by the classes; ``None`` leaves that to what is cheaper.
        self._registry: Source | None = None
        if classes:
            self._registry = Registry([*Registry.load(self.settings.models), *classes])
        elif models is not None:
            self._registry = partial(Registry.load, self.settings.models)
        self._opened: Runtime | None = None
        self._opening = threading.Lock()
        self._finalizer: weakref.finalize[[Runtime], BaseClient] | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def _runtime(self) -> Runtime:
        runtime = self._opened
        # The process id is asked for each time: it is cheaper than any hook, and a fork leaves no other trace.
        if runtime is not None and runtime.pid == os.getpid():
            return runtime
        return self._open()

    def _open(self) -> Runtime:
        self._leave_parents()
        with self._opening:
            if self._closed:
                raise closed()
            if self._opened is None:
                self._opened = Runtime(self.settings, self._registry)
                self._finalizer = weakref.finalize(self, _close_elsewhere, self._opened)
                self._finalizer.atexit = False
                _open_clients.add(self)
            return self._opened

    def _leave_parents(self) -> None:
        """In a child process: let go of what belongs to its parent."""
        if self._opened is not None and self._opened.pid != os.getpid():
            # The lock may have been taken by a thread that did not come along.
            self._opening = threading.Lock()
            abandon(self._opened)
            self._opened = None
            if self._finalizer is not None:
                self._finalizer.detach()

    def _close(self) -> None:
        self._leave_parents()
        with self._opening:
            self._closed = True
            runtime, self._opened = self._opened, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if runtime is not None:
            runtime.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "not connected"
        return f"<{type(self).__name__} {self.settings.namespace!r} {state}>"
