"""The zygote's loop: takes orders, forks, tells who has ended. One thread, since another one would end its use."""

from __future__ import annotations

import gc
import os
import runpy
import select
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from penstock.clock import monotonic_s
from penstock.errors import PenstockError
from penstock.processes.warm import MESSAGE_BYTES, MOST_DESCRIPTORS, Order
from penstock_worker.zygote import newborn
from penstock_worker.zygote.census import fault, take
from penstock_worker.zygote.forking import fork
from penstock_worker.zygote.preload import Loaded

log = structlog.get_logger(__name__)

#: So long after its end a process's number is kept, so that whoever ordered it can get hold of it, seconds.
KEPT_S = 10.0
#: What is not taken from us is offered again so often, seconds.
AGAIN_S = 0.1

_order = msgspec.json.Decoder(Order)


class Server:
    """``run`` until whoever gives the orders is gone. ``environ`` is the environment that orders are relative to."""

    def __init__(self, control: socket.socket, environ: Mapping[str, str]) -> None:
        self._control = control
        self._environ = dict(environ)
        self._loaded = Loaded()
        #: Those that live, by a handle of the kernel's that becomes readable at their end.
        self._children: dict[int, int] = {}
        #: Those that have ended, and until when their numbers are kept.
        self._ended: deque[tuple[float, int]] = deque()
        self._untold: deque[bytes] = deque()
        self._poll = select.poll()

    def run(self, loaded: Loaded) -> None:
        """See the class. What was forked lives on."""
        self._loaded = loaded
        # What is here stays as it is: a collection that looked through it in each child would copy it there.
        gc.collect()
        gc.freeze()
        self._poll.register(self._control, select.POLLIN)
        self.tell({"ready": True, "models": self._loaded.models})
        while True:
            for number, _ in self._poll.poll(self._patience_ms()):
                if number != self._control.fileno():
                    self._has_ended(number)
                elif not self._obey():
                    return
            self._offer()
            while self._ended and self._ended[0][0] <= monotonic_s():
                os.waitpid(self._ended.popleft()[1], 0)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send it now, or when there is room for it."""
        self._untold.append(msgspec.json.encode(message))
        self._offer()

    def _obey(self) -> bool:
        """Take one order; whether there will be more."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, MOST_DESCRIPTORS)
        except ConnectionError:  # it went without reading what was said last
            return False
        if not data:
            return False
        order = _order.decode(data)
        stale = self._loaded.files.changed()
        unfit = None if stale else fault(take({self._control.fileno()}))
        try:
            if stale:
                self.tell({"id": order.id, "stale": stale})
            elif unfit:
                self.tell({"id": order.id, "unfit": f"the process that workers are forked from {unfit[0]}"})
            else:
                self._fork(order, descriptors)
        finally:
            for number in descriptors:
                os.close(number)
        return not (stale or unfit)

    def _fork(self, order: Order, descriptors: list[int]) -> None:
        go, told = os.pipe()
        child = fork(lambda: self._live(order, descriptors, go, told))
        os.close(go)
        handle = os.pidfd_open(child)
        self._children[handle] = child
        self._poll.register(handle, select.POLLIN)
        try:
            # Told first: one that nobody knows of does not begin.
            self._control.send(msgspec.json.encode({"id": order.id, "pid": child}))
            os.write(told, b".")
        except OSError:  # whoever ordered it is gone; the loop sees it
            log.info("a fork that nobody waits for ends", action="zygote.forgotten", pid=child)
        finally:
            os.close(told)

    def _live(self, order: Order, descriptors: list[int], go: int, told: int) -> int:
        """In the child."""
        self._control.close()
        for handle in self._children:
            os.close(handle)
        os.close(told)
        known = os.read(go, 1)
        os.close(go)
        if not known:
            return 0
        log_fd, *handed = descriptors
        environ = {name: value for name, value in self._environ.items() if name not in order.unset} | order.set
        newborn.begin(
            environ=environ,
            folder=order.folder,
            log=log_fd,
            descriptors=dict(zip(order.descriptors, handed, strict=True)),
        )
        return run_module(order.module, order.argv)

    def _has_ended(self, handle: int) -> None:
        child = self._children.pop(handle)
        self._poll.unregister(handle)
        os.close(handle)
        # Looked at and left: until it is waited for, no other process gets its number.
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert found is not None
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._ended.append((monotonic_s() + KEPT_S, child))
        self.tell({"ended": child, "status": status})

    def _offer(self) -> None:
        while self._untold:
            try:
                self._control.send(self._untold[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # nobody is there any more: the loop sees it
                pass
            self._untold.popleft()

    def _patience_ms(self) -> float | None:
        waits = [AGAIN_S] if self._untold else []
        if self._ended:
            waits.append(max(0.0, self._ended[0][0] - monotonic_s()))
        return 1000 * min(waits) + 1 if waits else None


def run_module(module: str, argv: list[str]) -> int:
    """``python -m MODULE ARGV``, in this process; its exit status. Raises what it raises."""
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def serve(control: socket.socket, environ: Mapping[str, str], load: Callable[[], Loaded]) -> int:
    """A zygote's whole life; its exit status."""
    server = Server(control, environ)
    try:
        loaded = load()
    except PenstockError as error:
        log.warning("nothing is forked", action="zygote.refused", error=error.message, fix=error.fix)
        server.tell({"refused": error.message, "fix": error.fix})
        return 1
    server.run(loaded)
    return 0
