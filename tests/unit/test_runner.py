"""Faults inside a batch stay with their item."""

from __future__ import annotations

import json
import random
from asyncio import CancelledError

import pytest
from pydantic import BaseModel, field_validator

from penstock.errors import InvalidInput, ModelRaised, OutOfMemory
from penstock.job import JobState
from penstock.lane import Lane
from penstock.model import Model
from penstock.settings import RetrySettings
from penstock_worker.execute.device import is_out_of_memory
from penstock_worker.execute.outcome import Concluder, error_record, sound
from penstock_worker.execute.prediction import Untried, predict_each
from penstock_worker.execute.runner import Runner, overdue
from penstock_worker.item import Batch, Item, Run


class Doubler(Model):
    name = "double"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def predict(self, batch: list[int]) -> list[int]:
        self.batches.append(list(batch))
        if any(value < 0 for value in batch):
            raise ValueError(f"negative: {min(batch)}")
        return [2 * value for value in batch]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


class Hungry(Model):
    name = "hungry"
    room = 3

    def predict(self, batch: list[int]) -> list[int]:
        if len(batch) > self.room or 99 in batch:
            raise OutOfMemoryError("CUDA out of memory")
        return list(batch)


def make_item(value: str, id: str = "j", **fields) -> Item:
    item = Item(id, "double", Lane.INTERACTIVE, input=value, tag=1, source="s", arrived_at=0.0, claimed_at=0.0)
    for name, field in fields.items():
        setattr(item, name, field)
    return item


def test_a_poisonous_item_fails_alone():
    model = Doubler()
    results = predict_each(model, [1, 2, -3, 4, 5])
    assert [r for r in results if not isinstance(r, Exception)] == [2, 4, 8, 10]
    assert isinstance(results[2], ValueError)


def test_all_fail_when_all_raise():
    results = predict_each(Doubler(), [-1, -2, -3])
    assert [str(r) for r in results] == ["negative: -1", "negative: -2", "negative: -3"]


def test_out_of_memory_halves_the_batch():
    assert predict_each(Hungry(), list(range(10))) == list(range(10))


def test_an_item_too_large_for_the_device_alone_is_out_of_memory():
    results = predict_each(Hungry(), [1, 99])
    assert results[0] == 1
    assert isinstance(results[1], OutOfMemory)


def test_a_wrong_number_of_results_fails_all():
    class Short(Model):
        name = "short"

        def predict(self, batch: list[int]) -> list[int]:
            return batch[:-1]

    results = predict_each(Short(), [1, 2, 3])
    assert [r.code for r in results] == ["wrong_result_count"] * 3
    assert "2 results for 3 items" in str(results[0])


class Panic(BaseException):
    """What an extension in another language may raise."""


@pytest.mark.parametrize("error", [SystemExit(1), CancelledError("gone"), Panic("index out of bounds")], ids=repr)
def test_what_is_no_exception_fails_its_item_alone(error: BaseException):
    class Dies(Model):
        name = "dies"

        def predict(self, batch: list[int]) -> list[int]:
            if 2 in batch:
                raise error
            return batch

    results = predict_each(Dies(), [1, 2, 3])
    assert results == [1, error, 3]
    concluder = Concluder(RetrySettings(), max_output_bytes=50, rng=random.Random(1))
    item = make_item("2")
    outcome = concluder.outcome(item, error, now=0.0)
    assert (outcome.state, outcome.error["code"]) == (JobState.FAILED, "model_raised")
    assert isinstance(item.error, Exception), "Celery's trace would hand anything else on"


def run_of(*inputs: str) -> tuple[Doubler, Run]:
    items = [make_item(text, id=f"j{i}") for i, text in enumerate(inputs)]
    model = Doubler()
    runner = Runner(
        {"double": model},
        claim=lambda batch: Run(batch, live=batch.items),
        concluder=Concluder(RetrySettings(), max_output_bytes=50, rng=random.Random(1)),
        on_started=lambda run: None,
    )
    return model, runner.run(Batch(Doubler, items, "idle"))


def test_an_invalid_input_never_reaches_the_model():
    model, run = run_of("1", '"x"', "3")
    assert model.batches == [[1, 3]]
    assert [o.state for o in run.outcomes] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert run.outcomes[1].error["code"] == "invalid_input"
    assert "penstock model show double" in InvalidInput("x", fix="`penstock model show double`").fix


def test_each_outcome_carries_the_ledger():
    _, run = run_of("1", "2")
    assert [o.output for o in run.outcomes] == ["2", "4"]
    assert {o.batch_size for o in run.outcomes} == {2}
    assert {o.batch_reason for o in run.outcomes} == {"idle"}
    assert all(o.compute_s is not None and o.compute_s >= 0 for o in run.outcomes)


def conclude(result, **fields):
    concluder = Concluder(RetrySettings(failures=2, ooms=1, backoff_s=1.0), max_output_bytes=50, rng=random.Random(1))
    return concluder.outcome(make_item("1", **fields), result, now=100.0)


@pytest.mark.parametrize(
    ("name", "result", "fields", "state", "code"),
    [
        ("a value", {"a": 1}, {}, JobState.SUCCEEDED, None),
        ("a bug", ValueError("no"), {}, JobState.FAILED, "model_raised"),
        ("a passing fault", ConnectionError("down"), {}, JobState.ACCEPTED, "model_raised"),
        ("the budget is out", ConnectionError("down"), {"failures": 2}, JobState.FAILED, "model_raised"),
        ("out of memory", OutOfMemory("no room"), {}, JobState.ACCEPTED, "out_of_memory"),
        ("out of memory again", OutOfMemory("no room"), {"ooms": 1}, JobState.FAILED, "out_of_memory"),
        ("no JSON", object(), {}, JobState.FAILED, "invalid_output"),
        ("too long", "x" * 60, {}, JobState.FAILED, "invalid_output"),
        ("deadline before the retry", ConnectionError("x"), {"deadline_at": 100.0}, JobState.FAILED, "model_raised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outcomes(name, result, fields, state, code):
    outcome = conclude(result, **fields)
    assert outcome.state is state
    assert (outcome.error or {}).get("code") == code
    if state is JobState.ACCEPTED:
        assert outcome.available_at >= 100.0
        assert outcome.failures + outcome.ooms == 1, "exactly one budget pays"


def test_an_exception_can_say_that_it_is_worth_another_try():
    class Busy(Exception):
        retryable = True

    assert error_record(Busy("later"))["retryable"] is True
    assert error_record(Busy("later"))["type"] == "Busy"


class Vague(Exception):
    """Has neither a text nor an opinion."""

    def __str__(self) -> str:
        raise RuntimeError

    @property
    def retryable(self) -> bool:
        raise RuntimeError


class Hasty(ModelRaised):
    """Forgets its parent's constructor."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError"),
        (ValueError("no"), "ValueError: no"),
        (ValueError("half \ud83d"), "ValueError: half \\ud83d"),
        (ValueError("ä" * 10_000), f"ValueError: {'ä' * 4096}… (20000 bytes)"),
        (Vague(), "Vague: (a Vague whose text cannot be had: its __str__ raised RuntimeError)"),
        (InvalidInput("x" * 10_000), f"{'x' * 8192}… (10000 bytes)"),
        (Hasty(), "(a Hasty whose text cannot be had: its __str__ raised AttributeError)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_becomes_a_record_that_can_be_stored(error: Exception, message: str):
    record = error_record(error)
    assert record["message"] == message
    assert json.loads(json.dumps(record).encode()) == record
    record["message"].encode()
    assert record["retryable"] is False
    str(sound(error)).encode()


def test_an_item_whose_validator_fails_never_reaches_the_model():
    class Explosive(BaseModel):
        value: int

        @field_validator("value")
        @classmethod
        def check(cls, value: int) -> int:
            if value < 0:
                raise RuntimeError("our own fault")
            return value

    class Takes(Model):
        name = "takes"

        def predict(self, batch: list[Explosive]) -> list[int]:
            return [item.value for item in batch]

    Takes.predict.__annotations__["batch"] = list[Explosive]
    runner = Runner(
        {"takes": Takes()},
        claim=lambda batch: Run(batch, live=batch.items),
        concluder=Concluder(RetrySettings(), max_output_bytes=50, rng=random.Random(1)),
        on_started=lambda run: None,
    )
    run = runner.run(Batch(Takes, [make_item('{"value": 1}', id="a"), make_item('{"value": -1}', id="b")], "idle"))
    assert [o.state for o in run.outcomes] == [JobState.SUCCEEDED, JobState.FAILED]
    assert "our own fault" in run.outcomes[1].error["message"]


def test_only_items_past_their_own_timeout_are_overdue():
    slow, fast = make_item("1", timeout_s=100.0), make_item("2", timeout_s=1.0)
    run = Run(Batch(Doubler, [slow, fast], "idle"), live=[slow, fast], started_mono=50.0)
    assert overdue(run, now_mono=50.5) == ([], [slow, fast])
    assert overdue(run, now_mono=52.0) == ([fast], [slow])
    assert overdue(None, now_mono=52.0) == ([], [])


def test_each_call_has_the_timeout_to_itself():
    """While a batch is halved, only the items on the device can be late, and since their own call began."""
    one, two, three = (make_item(str(n), id=f"j{n}", timeout_s=1.0) for n in range(3))
    run = Run(Batch(Doubler, [one, two, three], "idle"), live=[one, two, three], started_mono=50.0)
    run.call = (60.0, [two])
    assert overdue(run, now_mono=60.5) == ([], [one, two, three])
    assert overdue(run, now_mono=62.0) == ([two], [one, three])


def test_the_runner_names_the_items_on_the_device():
    seen = []
    items = [make_item(text, id=f"j{n}") for n, text in enumerate(["1", '"x"', "-3", "4"])]

    class Watched(Doubler):
        def predict(self, batch: list[int]) -> list[int]:
            seen.append([item.id for item in runner.current.on_device[1]])
            return super().predict(batch)

    runner = Runner(
        {"double": Watched()},
        claim=lambda batch: Run(batch, live=batch.items),
        concluder=Concluder(RetrySettings(), max_output_bytes=50),
        on_started=lambda run: None,
    )
    run = runner.run(Batch(Watched, items, "idle"))
    assert seen == [["j0", "j2", "j3"], ["j0", "j2"], ["j0"], ["j2"], ["j3"]]
    assert [o.state.value for o in run.outcomes] == ["succeeded", "failed", "failed", "succeeded"]


def test_a_broken_model_is_not_tried_item_by_item():
    model = Doubler()
    results = predict_each(model, [-n - 1 for n in range(64)])
    assert len(model.batches) == 12
    untried = [r for r in results if isinstance(r, Untried)]
    assert (len(untried), sum(isinstance(r, ValueError) for r in results)) == (58, 6)
    assert "ValueError: negative" in str(untried[0])
    outcome = conclude(untried[0])
    assert (outcome.state, outcome.error["code"], outcome.failures) == (JobState.ACCEPTED, "model_raised", 1)


@pytest.mark.parametrize(
    ("error", "oom"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, oom: bool):
    assert is_out_of_memory(error) is oom
