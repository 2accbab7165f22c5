"""Many jobs from asyncio, with ``shout.py`` served: ``penstock up examples/shout.py``, then ``python gather.py``.

Concurrent calls of one client share transactions and round trips; a wait holds neither a thread nor a connection.
"""

from __future__ import annotations

import asyncio

import penstock


async def main(count: int = 200) -> None:
    async with penstock.AsyncClient() as client:
        words = await asyncio.gather(*(client.run("shout", f"word {n}", result_timeout=60) for n in range(count)))
        print(f"{len(words)} words, the last is {words[-1]!r}")

        # By hand: submit now, look later; the first to end comes first.
        jobs = await client.enqueue_many("shout", ["one", "two", "three"], tags={"from": "gather"})
        async for job in client.as_completed(jobs, timeout=60):
            print(job.status, job.output)


if __name__ == "__main__":
    asyncio.run(main())
