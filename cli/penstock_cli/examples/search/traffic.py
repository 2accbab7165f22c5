"""The demo's load: sentences one at a time, a burst of them in batches, and the rest beside questions at a steady rate.

Only the public SDK is used. Sentences are plain jobs, questions are runs of a pipeline. They are an open loop: each is
sent when it is due, whether or not the ones before have been answered, and its latency counts from the moment it was
due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock import Client, Overloaded
from penstock_cli.examples.search.corpus import QUESTIONS, Passage
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.pipeline import answer

#: Questions that may be under way at once; far more than a healthy system ever has.
_CONCURRENT = 32
#: Share of the passages that are embedded before the questions come, and how many of these first one at a time.
_BURST, _ALONE = 0.6, 48
#: Give up rather than hang, seconds.
_JOBS_TIMEOUT_S, _ANSWER_TIMEOUT_S = 600.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question, and what its run gave: the best of the passages that were embedded by then.

    ``beside``: other passages were being embedded when it was due. ``refused`` is how often it had to come back, which
    its latency has in it.
    """

    question: str
    found: list[dict[str, Any]]
    latency_s: float
    id: str
    beside: bool = False
    refused: int = 0


@dataclass(slots=True, kw_only=True)
class Phase:
    """Jobs that were submitted at once, and how long that and all of them took, seconds."""

    ids: list[str] = field(default_factory=list)
    submit_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Jobs per second."""
        return len(self.ids) / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(slots=True, kw_only=True)
class Measured:
    """What all of it gave. ``index`` holds every passage's vector, as the queue delivered it.

    ``alone`` and ``burst`` ran before the questions, one text at a time and in batches, ``beside`` meanwhile;
    ``alone_vectors`` are those of ``alone``, by place. ``complete`` are answers of all passages, for which nobody's
    time was taken.
    """

    index: Index
    answers: list[Answer] = field(default_factory=list)
    complete: list[Answer] = field(default_factory=list)
    alone: Phase = field(default_factory=Phase)
    burst: Phase = field(default_factory=Phase)
    beside: Phase = field(default_factory=Phase)
    alone_vectors: dict[int, list[float]] = field(default_factory=dict)


class Traffic:
    """All of it once, against a deployment that serves the demo's models. ``folder`` is where the index is kept."""

    def __init__(
        self,
        client: Client,
        passages: Sequence[Passage],
        *,
        rate: float,
        folder: Path,
        webhook: str | None = None,
        on_passage: Callable[[int], None] = lambda done: None,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self._client = client
        self._passages = passages
        self._rate = rate
        self._folder = folder
        self._webhook = webhook
        self._on_passage = on_passage
        self._on_answer = on_answer
        self._measured = Measured(index=Index(passages, folder))
        self._done = 0

    def run(self) -> Measured:
        """Send everything and wait for all of it; every question is asked at least once."""
        measured, count = self._measured, len(self._passages)
        burst = range(int(count * _BURST))
        # Spread, so that they are as long as the others.
        alone = burst[:: max(1, len(burst) // _ALONE)] or range(1)
        measured.alone = self._embed("embed-alone", alone, measured.alone_vectors.__setitem__)
        measured.burst = self._embed("embed", burst, self._found)
        pool = ThreadPoolExecutor(_CONCURRENT + 1, thread_name_prefix="demo")
        try:
            began = time.monotonic()
            background = pool.submit(self._embed, "embed", range(len(burst), count), self._found)
            asked: list[Future[Answer]] = []
            while not background.done() or len(asked) < len(QUESTIONS):
                due = began + (len(asked) + 1) / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
                asked.append(pool.submit(self._ask, len(asked), due, beside=not background.done()))
            measured.beside = background.result()
            measured.answers = [each.result() for each in asked]
            now = time.monotonic()
            again = [pool.submit(self._ask, number, now) for number in range(len(QUESTIONS))]
            measured.complete = [each.result() for each in again]
        finally:
            # Interrupted, the threads end when the client is closed: it tells whoever still waits.
            pool.shutdown(wait=False, cancel_futures=True)
        return self._measured

    def _embed(self, model: str, places: range, found: Callable[[int, list[float]], None]) -> Phase:
        began = time.monotonic()
        jobs = self._client.enqueue_many(model, [self._passages[place].text for place in places])
        phase = Phase(ids=[job.id for job in jobs], submit_s=time.monotonic() - began)
        place_of = dict(zip(phase.ids, places, strict=True))
        for job in self._client.as_completed(jobs, timeout=_JOBS_TIMEOUT_S):
            found(place_of[job.id], job.result())
        phase.elapsed_s = time.monotonic() - began
        return phase

    def _found(self, place: int, vector: list[float]) -> None:
        self._measured.index.put(place, vector)
        self._done += 1
        self._on_passage(self._done)

    def _ask(self, number: int, due: float, *, beside: bool = False) -> Answer:
        question = QUESTIONS[number % len(QUESTIONS)]
        refused = 0
        while True:
            try:
                run = self._client.enqueue(
                    answer,
                    {"question": question, "index": str(self._folder)},
                    lane="interactive",
                    webhook=self._webhook if number == 0 else None,
                )
                break
            except Overloaded as error:  # a machine that is busy otherwise: as a caller of a service would, it waits
                if time.monotonic() - due > _ANSWER_TIMEOUT_S:
                    raise
                refused += 1
                time.sleep(error.retry_after)
        found = run.result(timeout=_ANSWER_TIMEOUT_S)
        latency_s = time.monotonic() - due
        given = Answer(question=question, found=found, latency_s=latency_s, id=run.id, beside=beside, refused=refused)
        self._on_answer(given)
        return given
