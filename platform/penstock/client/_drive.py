"""Drives flows: with blocking calls for ``Client``, on an event loop for ``AsyncClient``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.client._flow import Call, Emit, Flow, Open, Wait
from penstock.errors import StoreUnavailable

if TYPE_CHECKING:
    from penstock.client.inbox import Ticket
    from penstock.client.runtime import Runtime


def drive(runtime: Runtime, flow: Flow) -> Iterator[Any]:
    """Run a flow with blocking calls; an iterator of what it emits."""
    push = runtime.push
    try:
        effect = next(flow)
        while True:
            answer: Any = None
            if type(effect) is Wait:
                push.wait(effect.ticket, effect.timeout_s)
            elif type(effect) is Emit:
                yield effect.value
            elif type(effect) is Open:
                answer = push.open(effect.ids, foreign=effect.foreign, every_change=effect.every_change)
            elif type(effect) is Call:
                try:
                    answer = effect.function(*effect.args)
                except StoreUnavailable as error:
                    effect = flow.throw(error)
                    continue
            effect = flow.send(answer)
    except StopIteration:
        return
    finally:
        flow.close()


async def adrive(runtime: Runtime, flow: Flow, executor: Executor) -> AsyncIterator[Any]:
    """Run a flow on the running event loop. Blocking calls go to ``executor``, waits hold no thread."""
    loop = asyncio.get_running_loop()
    bell = _Bell(loop)
    try:
        effect = next(flow)
        while True:
            answer: Any = None
            if type(effect) is Wait:
                runtime.push.waiting(effect.ticket)
                await bell.wait(effect.ticket, effect.timeout_s)
            elif type(effect) is Emit:
                yield effect.value
            elif type(effect) is Open:
                opening = effect

                def open_ticket(opening: Open = opening) -> Ticket:
                    return runtime.push.open(
                        opening.ids, foreign=opening.foreign, every_change=opening.every_change, wake=bell.ring
                    )

                blocks = opening.foreign or not runtime.push.connected
                answer = await loop.run_in_executor(executor, open_ticket) if blocks else open_ticket()
            elif type(effect) is Call:
                try:
                    answer = await loop.run_in_executor(executor, effect.function, *effect.args)
                except StoreUnavailable as error:
                    effect = flow.throw(error)
                    continue
            effect = flow.send(answer)
    except StopIteration:
        return
    finally:
        flow.close()


class _Bell:
    """Wakes one coroutine from any thread."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        future = self._future
        if future is not None:
            _ring(self._loop, future)

    async def wait(self, ticket: Ticket, timeout_s: float) -> None:
        future = self._future = self._loop.create_future()
        # It may have come before there was a future to set.
        if ticket.ready:
            return
        timer = self._loop.call_later(timeout_s, _set, future)
        try:
            await future
        finally:
            self._future = None
            timer.cancel()


class Doorbell:
    """Wakes many coroutines of one loop from any thread.

    A batch of results comes at once. Rings are gathered, so that one of them wakes the loop and not each, and answered
    a few in a turn of the loop, so that its timers and its other work get their turn in between.
    """

    __slots__ = ("_loop", "_ringing", "_rung")

    #: Futures that are resolved in one turn of the loop.
    TURN = 8

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rung: deque[asyncio.Future[None]] = deque()
        self._ringing = False

    def ring(self, future: asyncio.Future[None]) -> None:
        """Resolve ``future`` soon; from any thread."""
        self._rung.append(future)
        if not self._ringing:
            self._ringing = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._answer)

    async def wait(self, ticket: Ticket, future: asyncio.Future[None], timeout_s: float) -> None:
        """Wait until ``future`` was rung for, or the time is over."""
        if ticket.ready:
            return
        timer = self._loop.call_later(timeout_s, _set, future)
        try:
            await future
        finally:
            timer.cancel()

    def _answer(self) -> None:
        for _ in range(min(self.TURN, len(self._rung))):
            _set(self._rung.popleft())
        if not self._rung:
            self._ringing = False
            # Whoever rang before the flag fell counted on us; who does it now wakes the loop again.
            if not self._rung:
                return
            self._ringing = True
        self._loop.call_soon(self._answer)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ring(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_set, future)
