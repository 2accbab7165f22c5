"""The doorbell: every ring is answered, many rings wake the loop once, and its other work gets turns in between."""

from __future__ import annotations

import asyncio
import threading

from penstock.client._drive import Doorbell


def test_rings_from_threads_are_all_answered() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bell = Doorbell(loop)
        futures = [loop.create_future() for _ in range(2000)]
        threads = [
            threading.Thread(target=lambda own=futures[n::4]: [bell.ring(future) for future in own]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(asyncio.gather(*futures), 30)
        for thread in threads:
            thread.join()
        last = loop.create_future()
        bell.ring(last)
        await asyncio.wait_for(last, 30)

    asyncio.run(main())


def test_a_batch_of_rings_wakes_the_loop_once_and_takes_turns_with_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        woken: list[object] = []
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda call, *args, **kw: (woken.append(call), wake(call, *args, **kw))[1]  # type: ignore[method-assign,assignment]
        bell = Doorbell(loop)
        futures = [loop.create_future() for _ in range(5 * Doorbell.TURN)]
        for future in futures:
            bell.ring(future)
        assert len(woken) == 1
        done = []
        while not all(future.done() for future in futures):
            await asyncio.sleep(0)
            done.append(sum(future.done() for future in futures))
        assert max(later - earlier for earlier, later in zip([0, *done], done, strict=False)) <= Doorbell.TURN
        assert len(woken) == 1

    asyncio.run(main())


def test_ringing_for_a_closed_loop_or_a_finished_wait_is_harmless() -> None:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[None] = loop.create_future()
    bell = Doorbell(loop)
    future.set_result(None)
    bell.ring(future)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    bell.ring(future)
