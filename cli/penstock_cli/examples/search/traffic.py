"""The demo's load: every passage as a background job, and questions that come in at a steady rate meanwhile.

Only the public SDK is used. Questions are an open loop: each is sent when it is due, whether or not the ones before
have been answered, and its latency counts from the moment it was due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from penstock import Client, JobHandle
from penstock_cli.examples.search.corpus import QUESTIONS, Passage
from penstock_cli.examples.search.index import Index

#: Questions that may be under way at once; far more than a healthy system ever has.
_CONCURRENT = 32
#: Give up rather than hang, seconds.
_JOBS_TIMEOUT_S, _ANSWER_TIMEOUT_S = 600.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question, and the best of the passages that were embedded by then."""

    question: str
    vector: list[float]
    place: int
    score: float
    latency_s: float
    id: str


@dataclass(slots=True, kw_only=True)
class Measured:
    """What the run gave. ``index`` holds every passage's vector, as the queue delivered it."""

    index: Index
    answers: list[Answer] = field(default_factory=list)
    passage_ids: list[str] = field(default_factory=list)
    submit_s: float = 0.0
    elapsed_s: float = 0.0


class Traffic:
    """One run against a deployment that serves ``embed``."""

    def __init__(
        self,
        client: Client,
        passages: Sequence[Passage],
        *,
        rate: float,
        webhook: str | None = None,
        on_passage: Callable[[int], None] = lambda done: None,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self._client = client
        self._passages = passages
        self._rate = rate
        self._webhook = webhook
        self._on_passage = on_passage
        self._on_answer = on_answer
        self._measured = Measured(index=Index(len(passages)))

    def run(self) -> Measured:
        """Send everything and wait for all of it; every question is asked at least once."""
        pool = ThreadPoolExecutor(_CONCURRENT + 1, thread_name_prefix="demo")
        try:
            began = time.monotonic()
            background = pool.submit(self._embed_all)
            asked: list[Future[Answer]] = []
            while not background.done() or len(asked) < len(QUESTIONS):
                due = began + (len(asked) + 1) / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
                asked.append(pool.submit(self._ask, len(asked), due))
            background.result()
            self._measured.answers = [answer.result() for answer in asked]
        finally:
            # Interrupted, the threads end when the client is closed: it tells whoever still waits.
            pool.shutdown(wait=False, cancel_futures=True)
        return self._measured

    def _embed_all(self) -> None:
        began = time.monotonic()
        jobs = self._client.enqueue_many("embed", [passage.text for passage in self._passages])
        self._measured.submit_s = time.monotonic() - began
        self._measured.passage_ids = [job.id for job in jobs]
        places = {job.id: place for place, job in enumerate(jobs)}
        for done, job in enumerate(self._client.as_completed(jobs, timeout=_JOBS_TIMEOUT_S), 1):
            self._measured.index.put(places[job.id], job.result())
            self._on_passage(done)
        self._measured.elapsed_s = time.monotonic() - began

    def _ask(self, number: int, due: float) -> Answer:
        question = QUESTIONS[number % len(QUESTIONS)]
        job: JobHandle = self._client.enqueue(
            "embed", question, lane="interactive", webhook=self._webhook if number == 0 else None
        )
        vector: list[float] = job.result(timeout=_ANSWER_TIMEOUT_S)
        (place, score), *_ = self._measured.index.nearest(vector)
        latency_s = time.monotonic() - due
        answer = Answer(question=question, vector=vector, place=place, score=score, latency_s=latency_s, id=job.id)
        self._on_answer(answer)
        return answer
