"""The asyncio client: the same verbs, hundreds of waiters, no blocked loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from penstock import AsyncClient, JobState
from penstock.client import _flow
from penstock.errors import InvalidInput, JobFailed, JobNotFound, PenstockError, ResultTimeout, UnknownModel
from penstock.settings import Settings
from tests.fixtures.client import MODELS, MiniWorker
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.stopwatch import Stopwatch


def go(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def test_the_verbs(client_settings: Settings, running: MiniWorker) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            await client.check()
            assert await client.run("upper", "x", result_timeout=PATIENCE_S) == "X"
            job = await client.enqueue("upper", "y", tags={"run": "1"})
            assert job.status == "accepted"
            assert await job.result(PATIENCE_S) == "Y"
            assert (job.status, job.output, job.error) == ("succeeded", "Y", None)
            assert (await job.refresh()).state is JobState.SUCCEEDED
            assert job.job is not None
            same = await client.get(job.id)
            assert same == job
            assert same.reply_to == job.reply_to
            assert await client.list(tag="run") == [job]
            jobs = await client.enqueue_many("echo", range(20))
            done = [j.output async for j in client.as_completed(jobs, timeout=PATIENCE_S)]
            assert sorted(done) == list(range(20))
            bad = await client.enqueue("fail", 1)
            with pytest.raises(JobFailed):
                await bad.result(PATIENCE_S)
            await bad.retry()
            assert (await bad.wait(PATIENCE_S)).status == "failed"
            later = await client.enqueue("echo", 1, delay=60)
            assert await later.cancel() == "cancelled"
            events = [event.state.value async for event in job.stream()]
            assert events[0] == "accepted"
            assert events[-1] == "succeeded"
            with pytest.raises(JobNotFound):
                await client.get("nope")
            with pytest.raises(UnknownModel):
                await client.enqueue("nope", 1)

    go(main())


def test_hundreds_of_coroutines_share_transactions_and_hold_no_threads(
    client_settings: Settings, running: MiniWorker
) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            await client.run("echo", 0, result_timeout=PATIENCE_S)
            store = client._runtime().store
            groups: list[int] = []
            insert_groups = store.insert_groups

            def counted(many: Any, **options: float) -> Any:
                groups.append(len(many))
                return insert_groups(many, **options)

            store.insert_groups = counted  # type: ignore[method-assign]
            answers = await asyncio.gather(*(client.run("echo", n, result_timeout=50) for n in range(500)))
            assert answers == list(range(500))
            assert sum(groups) == 500
            assert len(groups) < 10
            assert threading.active_count() < 15

    go(main())


def test_one_refusal_does_not_touch_the_others(client_settings: Settings, running: MiniWorker) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            answers = await asyncio.gather(
                *(client.run("upper", "x" if n % 2 else n, result_timeout=PATIENCE_S) for n in range(10)),
                return_exceptions=True,
            )
            assert answers[1::2] == ["X"] * 5
            assert all(isinstance(answer, InvalidInput) for answer in answers[::2])

    go(main())


def test_the_loop_goes_on_while_results_are_awaited(client_settings: Settings, mini: MiniWorker) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            job = await client.enqueue("echo", 1)
            longest = 0.0
            wait = asyncio.create_task(job.result(PATIENCE_S))
            for _ in range(100):
                watch = Stopwatch()
                await asyncio.sleep(0.001)
                longest = max(longest, watch.took_s)
            assert not wait.done()
            mini.step()
            assert await wait == 1
            assert longest < 0.5

    go(main())


def test_timeouts_and_cancelled_waits_leave_nothing_behind(client_settings: Settings, mini: MiniWorker) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            jobs = await client.enqueue_many("echo", range(3))
            with pytest.raises(ResultTimeout):
                await jobs[0].result(0.02)
            with pytest.raises(ResultTimeout):
                async for _ in client.as_completed(jobs, timeout=0.02):
                    pass
            wait = asyncio.create_task(jobs[0].result())
            await asyncio.sleep(0.05)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            assert len(client._runtime().push._inbox) == 0
            mini.step()
            assert [await job.result(PATIENCE_S) for job in jobs] == [0, 1, 2]

    go(main())


def test_others_jobs(client_settings: Settings, mini: MiniWorker) -> None:
    async def main() -> None:
        async with (
            AsyncClient(client_settings, models=MODELS) as one,
            AsyncClient(client_settings, models=MODELS) as two,
        ):
            job = await one.enqueue("echo", 1)
            foreign = await two.get(job.id)
            assert foreign.reply_to != two._runtime().client_id
            waits = asyncio.gather(job.result(PATIENCE_S), foreign.result(PATIENCE_S))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(mini.step)
            assert await waits == [1, 1]

    go(main())


def test_closing(client_settings: Settings, mini: MiniWorker) -> None:
    async def main() -> None:
        client = AsyncClient(client_settings, models=MODELS)
        job = await client.enqueue("echo", 1)
        wait = asyncio.create_task(job.result())
        await asyncio.sleep(0.05)
        await client.close()
        await client.close()
        with pytest.raises(PenstockError, match="closed"):
            await wait
        with pytest.raises(PenstockError, match="closed"):
            await client.enqueue("echo", 1)

    go(main())


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No silence makes a waiter look into SQL: what comes in the time of a test came by push."""
    monkeypatch.setattr(_flow, "SAFETY_S", 600.0)


@pytest.mark.usefixtures("trusting")
def test_an_output_too_long_to_be_pushed_is_read_at_once(client_settings: Settings, running: MiniWorker) -> None:
    """The pushed record says only that it ended: SQL is read then, not after the silence that makes one suspicious."""

    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            text = "x" * 100_000
            assert await client.run("echo", 1, result_timeout=PATIENCE_S) == 1
            jobs = [await client.enqueue("echo", text) for _ in range(3)]
            # No timeout of its own: at its end SQL would be read in any case.
            results = asyncio.gather(*(job.result() for job in jobs))
            assert await asyncio.wait_for(results, 30) == [text] * 3

    go(main())


@pytest.mark.usefixtures("trusting")
def test_several_may_wait_for_one_job_and_for_one_that_has_ended(client_settings: Settings, mini: MiniWorker) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            await asyncio.to_thread(client._runtime().push.listen)
            job = await client.enqueue("echo", 1)
            waits = [asyncio.create_task(asyncio.wait_for(job.result(), 30)) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.to_thread(mini.step)
            assert await asyncio.gather(*waits) == [1, 1, 1]
            early = await client.enqueue("echo", 2)
            await asyncio.to_thread(mini.step)
            assert await asyncio.wait_for(early.result(), 30) == 2
            assert len(client._runtime().push._inbox) == 0

    go(main())


def test_one_loop_per_client(client_settings: Settings, running: MiniWorker) -> None:
    client = AsyncClient(client_settings, models=MODELS)

    async def use() -> None:
        assert await client.run("echo", 1, result_timeout=PATIENCE_S) == 1

    go(use())
    go(use())  # the first loop is closed, so the client may move on to this one

    async def abuse() -> None:
        await use()
        with pytest.raises(PenstockError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, use())
        await client.close()

    go(abuse())
