"""Helpers for tests of models and of code that uses them; import them from your own tests.

``run_model`` runs a model as a worker would, without a queue, and ``run_pipeline`` a pipeline of them.
``assert_settled`` waits for a job on a real one. None of them needs pytest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from penstock.client.handle import JobHandle
from penstock.clock import monotonic_s
from penstock.codec import ItemCodec, codec_of
from penstock.errors import InvalidInput, InvalidOutput, ModelRaised, OverBudget, WrongResultCount
from penstock.functions import Function
from penstock.job import Job, JobState
from penstock.jsontext import loads
from penstock.lane import split_name
from penstock.model import Batching, Model, check_model
from penstock.payload import write_input, write_output
from penstock.pipelines import local, plaingraph
from penstock.pipelines.graph import Graph, check_bounds
from penstock.pipelines.writing.expansion import Expansion
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.registry import unknown_model
from penstock.results import results_of


class FakeClock:
    """A clock that moves when told, for policies and whatever else takes ``now`` as an argument.

    Call it for the time, in seconds; ``advance`` moves it on and returns the new time.
    """

    def __init__(self, at: float = 1_000_000.0) -> None:
        self._at = at

    def __call__(self) -> float:
        return self._at

    def advance(self, seconds: float) -> float:
        """Move on; time does not go back."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._at += seconds
        return self._at


def run_model(
    model: type[Model] | Model,
    inputs: Iterable[Any],
    *,
    device: str = "cpu",
    return_exceptions: bool = False,
) -> list[Any]:
    """Outputs of ``model`` for ``inputs``, in order, as a client would get them.

    As in a worker: inputs go through JSON and are validated, items are batched within ``max_size`` and ``max_cost``,
    a batch that raises is halved until the faulty item stands alone, results are counted and go through JSON. Unlike
    a worker: no retries, no timeouts, no lanes, and batches are as full as the limits allow, which under real load
    they need not be.

    A class is instantiated and loaded onto ``device``; an instance is taken as loaded. Raises the first item's error
    (``InvalidInput``, ``ModelRaised``, ``WrongResultCount``, ``InvalidOutput``), or has the errors in the list
    with ``return_exceptions=True``.
    """
    cls = model if isinstance(model, type) else type(model)
    check_model(cls)
    if isinstance(model, type):
        model = model()
        model.load(device)
    codec = codec_of(cls)
    answers: list[Any] = [_read(codec, value) for value in inputs]
    good = [index for index, value in enumerate(answers) if not isinstance(value, InvalidInput)]
    for batch in _batches(good, answers, cls.batching):
        for index, result in zip(batch, _predict(model, [answers[i] for i in batch]), strict=True):
            answers[index] = _write(result)
    if not return_exceptions:
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
    return answers


def run_pipeline(
    pipeline: Pipeline | Graph,
    inputs: Mapping[str, Any],
    *,
    models: Iterable[type[Model] | Model | Function] = (),
    signals: Mapping[str, Any] = MappingProxyType({}),
    device: str = "cpu",
    max_parallel: int | None = None,
    budget: float | None = None,
) -> Any:
    """The output of a pipeline or a graph, in this process: as by workers, but one step after the other, and nobody
    waits.

    ``models`` are those that its steps call, classes or instances (a stub with the right ``name`` is one); ``signals``
    are the values that its waits are given. One step after the other is within any ``max_parallel``; ``budget``, or the
    pipeline's own, counts the seconds that calls of models take here. Raises the error of a step that nothing stands in
    for, ``NoValue``, ``OverBudget``, and ``UnknownModel`` for one that ``models`` has not.
    """
    whole = plaingraph.from_graph(pipeline) if isinstance(pipeline, Graph) else pipeline
    check_bounds("the run", max_parallel, budget)
    budget_s = whole.graph.budget if budget is None else budget
    spent_s = 0.0
    known: dict[str, type[Model] | Model] = {}
    for each in models:
        model = each.model if isinstance(each, Function) else each
        known[model.name] = model
    loaded: dict[str, Model] = {}

    def call(name: str, items: Sequence[Any]) -> Sequence[Any]:
        nonlocal spent_s
        if budget_s is not None and spent_s > budget_s:
            raise OverBudget(spent_s=spent_s, budget_s=budget_s)
        plain, _ = split_name(name)
        if plain not in known:
            missing = unknown_model(plain, known)
            missing.fix = f"run_pipeline(…, models=[…]) names what its steps call, {plain!r} among them"
            raise missing
        if plain not in loaded:
            model = known[plain]
            loaded[plain] = model if isinstance(model, Model) else model()
            if isinstance(model, type):
                loaded[plain].load(device)
        began = monotonic_s()
        try:
            return run_model(loaded[plain], items, return_exceptions=True)
        finally:
            spent_s += monotonic_s() - began

    return local.run(whole.graph, loads(whole.encode(inputs, sys.maxsize)), call, signals)


def assert_settled(job: JobHandle, state: str = JobState.SUCCEEDED, *, timeout: float = 10.0) -> Job:
    """Wait for the job's end and assert how it ended; the snapshot that SQL then has.

    Raises ``AssertionError`` with the job's error, or ``ResultTimeout`` when it does not end in time.
    """
    snapshot = job.wait(timeout).refresh()
    assert snapshot.state.is_terminal, f"job {job.id} is {snapshot.status}: it was started again"
    assert snapshot.state == state, f"job {job.id} ended as {snapshot.status}, not {state}: {snapshot.error}"
    assert snapshot.ledger.settled_at is not None, f"job {job.id} has no settling time"
    return snapshot


def _read(codec: ItemCodec, value: Any) -> Any:
    try:
        return codec.decode(write_input(codec.name, value, codec=codec, max_bytes=sys.maxsize))
    except InvalidInput as error:
        return error


def _batches(indices: Sequence[int], values: Sequence[Any], limits: Batching) -> Iterator[list[int]]:
    batch: list[int] = []
    cost = 0.0
    for index in indices:
        own = limits.cost(values[index]) if limits.cost is not None else 1.0
        too_costly = limits.max_cost is not None and cost + own > limits.max_cost
        if batch and (len(batch) == limits.max_size or too_costly):
            yield batch
            batch, cost = [], 0.0
        batch.append(index)
        cost += own
    if batch:
        yield batch


def _predict(model: Model, values: list[Any]) -> Sequence[Any]:
    try:
        return results_of(model.name, model.predict(values), len(values))
    except WrongResultCount as fault:
        return [fault] * len(values)
    except Exception as error:
        if len(values) == 1:
            return [error]
        middle = len(values) // 2
        return [*_predict(model, values[:middle]), *_predict(model, values[middle:])]


def _write(result: Any) -> Any:
    if isinstance(result, Expansion):
        return result
    if isinstance(result, BaseException):
        fault = ModelRaised(f"{type(result).__name__}: {result}")
        fault.__cause__ = result
        return result if isinstance(result, WrongResultCount) else fault
    try:
        return loads(write_output(result, "result", max_bytes=sys.maxsize))
    except InvalidOutput as error:
        return error
