"""Runs many requests through the client with a bounded number in flight, each failing alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError, Rejected, safe_text
from penstock.job import JobState
from penstock_cli import jsonl

if TYPE_CHECKING:
    from penstock import Client, JobHandle

#: Jobs per submission.
CHUNK = 1000
#: Submissions in flight: enough that the workers have more to do while one is collected.
AHEAD = 4

Chunk = list[tuple["JobHandle", jsonl.Line]]


class BulkRun:
    """One run. ``results`` may be iterated once; ``done``, ``failed`` and ``skipped`` count as it goes."""

    def __init__(self, client: Client, model: str, options: dict[str, Any]) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._flying: deque[Chunk] = deque()
        self.done = 0
        self.failed = 0
        self.skipped = 0

    def results(self, lines: Iterable[jsonl.Line], *, skip: Collection[str] = ()) -> Iterator[dict[str, Any] | None]:
        """Submit, and give an output line per request, in the order in which jobs end; ``None`` for a skipped one.

        The order is free within about ``CHUNK`` lines. Raises ``StoreUnavailable`` when the database goes away, and
        ``UnknownModel``, which no line could survive.
        """
        rest = iter(lines)
        more = True
        while more or self._flying:
            while more and len(self._flying) < AHEAD:
                chunk = list(islice(rest, CHUNK))
                more = len(chunk) == CHUNK
                yield from self._submit(chunk, skip)
            if self._flying:
                yield from self._collect(self._flying[0])
                self._flying.popleft()

    def cancel(self) -> int:
        """Cancel what is in flight: a run that goes on later submits it again. How many were cancelled."""
        open_jobs = [handle.id for chunk in self._flying for handle, _ in chunk if not handle.ended]
        try:
            return len(self._client.cancel_many(open_jobs).changed)
        except PenstockError:
            return 0

    def _submit(self, lines: list[jsonl.Line], skip: Collection[str]) -> Iterator[dict[str, Any] | None]:
        good: list[jsonl.Line] = []
        for line in lines:
            if line.fault is not None:  # told anew each time: its id may be that of another line, which is done
                yield self._fail(line, None, code="invalid_line", message=line.fault)
            elif line.custom_id in skip:
                self.skipped += 1
                yield None
            else:
                good.append(line)
        if not good:
            return
        try:
            handles = self._client.enqueue_many(self._model, [line.input for line in good], **self._options)
            self._flying.append(list(zip(handles, good, strict=True)))
        except Exception as error:
            if not _of_an_input(error):
                raise
            # Nothing of it was stored: find out which ones are refused.
            yield from self._submit_singly(good)

    def _submit_singly(self, lines: list[jsonl.Line]) -> Iterator[dict[str, Any]]:
        chunk: Chunk = []
        self._flying.append(chunk)
        for line in lines:
            try:
                handles = self._client.enqueue_many(self._model, [line.input], **self._options)
                chunk.append((handles[0], line))
            except Rejected as error:
                yield self._fail(line, None, code=error.code, message=_of_line(line, error.message))
            except Exception as error:
                if not _of_an_input(error):
                    raise
                yield self._fail(
                    line, None, code="invalid_input", message=f"{type(error).__name__}: {safe_text(error)}"
                )

    def _collect(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        # The same job may answer for several lines (an idempotency key).
        lines: dict[str, list[jsonl.Line]] = {}
        for handle, line in chunk:
            lines.setdefault(handle.id, []).append(line)
        unique = {handle.id: handle for handle, _ in chunk}
        for handle in self._client.as_completed(unique.values()):
            for line in lines[handle.id]:
                yield self._result(handle, line)

    def _result(self, handle: JobHandle, line: jsonl.Line) -> dict[str, Any]:
        if handle.status == JobState.SUCCEEDED:
            self.done += 1
            return jsonl.succeeded(line, handle.id, handle.output)
        error = handle.error or {}
        return self._fail(
            line,
            handle.id,
            code=str(error.get("code") or handle.status),
            message=str(error.get("message") or f"the job was {handle.status}"),
        )

    def _fail(self, line: jsonl.Line, job_id: str | None, *, code: str, message: str) -> dict[str, Any]:
        self.done += 1
        self.failed += 1
        return jsonl.unsuccessful(line, job_id, code=code, message=message)


def _of_line(line: jsonl.Line, message: str) -> str:
    """What was said of the only input of a submission, said of its line."""
    said = message.removeprefix("input 0: ")
    return message if said == message else f"line {line.number}: {said}"


def _of_an_input(error: Exception) -> bool:
    """Whether this may be one input's fault. What a validator of the user's raises is no error of ours."""
    if isinstance(error, PenstockError):
        return isinstance(error, Rejected) and error.code != "unknown_model"
    return not isinstance(error, OSError)
