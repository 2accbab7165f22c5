"""Every public verb of both clients with values that are none: each is an error of ours that says what to pass."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

import penstock
from penstock import AsyncClient, Client, Model
from penstock.client import AsyncJobHandle, JobHandle
from penstock.errors import InvalidInput, NotSerializable, PenstockError
from penstock.settings import Settings
from tests.fixtures.client import MODELS


class Nasty:
    """Nothing can be done with it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]


@dataclass
class Dumper:
    """A record whose own code fails, as a user's may."""

    name: str = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise KeyError("nothing of this name")
        return super().__getattribute__(name)


class Lister:
    def tolist(self) -> Any:
        raise KeyError("no list")


class Strict(pydantic.BaseModel):
    value: int

    @pydantic.field_validator("value")
    @classmethod
    def _look(cls, value: int) -> int:
        raise LookupError("the table of values is not there")


class Checked(Model):
    name = "checked"

    def predict(self, batch: list[Strict]) -> list[int]:
        return [item.value for item in batch]


ODD: list[Any] = [[], {}, ["x"], 5, 1.5, b"x", object(), Nasty(), "a\0b", "\ud800"]
NUMBERS: list[Any] = ["x", "1", [], {}, b"1", object(), Nasty(), float("nan"), True]

WHERE: dict[str, list[Any]] = {
    "status": [*ODD, "done"],
    "model": ODD,
    "tenant": ODD,
    "lane": ODD,
    "tag": [[], {}, ["x"], 5, 1.5, b"x", ("a", 5), ("a", "b", "c"), Nasty(), "a\0b", ("a", "\ud800")],
    "older_than": [*NUMBERS, -1, float("inf")],
    "on_chunk": [],
}
#: Verb of a client -> argument -> values that are refused. Others of its arguments are in ``GOOD``.
CLIENT: dict[str, dict[str, list[Any]]] = {
    "get": {"id": [*ODD, None, ""]},
    "list": {
        "status": [*ODD, "done"],
        "model": ODD,
        "tenant": ODD,
        "lane": ODD,
        "tag": [[], {}, ["x"], 5, 1.5, b"x", ("a", 5), ("a", "b", "c"), {"a": "b"}, Nasty(), "a\0b", ("a", "\ud800")],
        "limit": [*NUMBERS, -1, 10**20, 1.0, float("inf"), None],
        "before": [*ODD, ""],
        "run": [*ODD, ""],
    },
    "as_completed": {"jobs": ["x", None, 5, [5], [None], [Nasty()], {"a": 1}, b"x"], "timeout": NUMBERS},
    "enqueue": {
        "model": [*ODD, None, penstock],
        "input": [Dumper(), {"a": [Dumper()]}, Lister(), object(), b"x", float("nan")],
        "lane": [*ODD, "fast"],
        "tenant": [*ODD, None, ""],
        "priority": [*NUMBERS, 10, 10**20],
        "deadline": NUMBERS,
        "timeout": [*NUMBERS, 0, -1, 1e308],
        "idempotency_key": [*ODD, ""],
        "webhook": [*ODD, "no url"],
        "tags": [["x"], 5, "x", {"a": 1}, {1: "a"}, {"a\0": "b"}, Nasty()],
        "delay": [*NUMBERS, -1, 10**20],
        "max_parallel": [*NUMBERS, 0, -1, 1.5, 10**20],
        "budget": [*NUMBERS, -1],
    },
    "run": {"model": [None, 5], "result_timeout": NUMBERS},
    "enqueue_many": {"model": [None, 5], "inputs": [None, 5, "x", b"x", {"a": 1}, [Dumper()], [object()]]},
    "signal": {
        "run": [*ODD, None, "", 5],
        "name": [*ODD, None, ""],
        "value": [Dumper(), object(), b"x", float("nan")],
        "id": [5, "a\0b", "\ud800", Nasty()],
    },
    "cancel_many": {"jobs": [None, 5, "x", [5], [None], [Nasty()], b"x"], "on_chunk": []},
    "retry_many": {"jobs": [None, 5, "x", [5], [None], [Nasty()], b"x"], "on_chunk": []},
    "cancel_where": WHERE,
    "retry_where": WHERE,
    "look": {},
    "check": {},
    "close": {},
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "as_completed": {"jobs": []},
    "enqueue": {"model": "echo", "input": 1},
    "run": {"model": "echo", "input": 1},
    "enqueue_many": {"model": "echo", "inputs": [1]},
    "signal": {"run": "none", "name": "go"},
}
HANDLE: dict[str, dict[str, list[Any]]] = {
    "wait": {"timeout": NUMBERS},
    "result": {"timeout": NUMBERS},
    "stream": {"step": [*ODD, ""], "after": [*ODD, "x", "1.", "1.x", "9" * 5000, "5." + "9" * 5000]},
    "fork": {"from_step": [*ODD, ""], "inputs": [["x"], 5, "x", {"a": Nasty()}]},
    "refresh": {}, "cancel": {}, "retry": {}, "cost": {},
}  # fmt: skip
#: Of the base classes, for the client itself.
INNER = {"learn", "hear", "restart", "value"}


def calls(table: dict[str, dict[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for verb, arguments in table.items():
        for name, values in arguments.items():
            for value in values:
                yield verb, {**GOOD.get(verb, {}), name: value}


def fault(verb: str, arguments: dict[str, Any], error: BaseException | None) -> list[str]:
    """What is wrong with how a call ended."""
    what = f"{verb}({', '.join(f'{name}: {type(value).__name__}' for name, value in arguments.items())})"
    if error is None:
        return [f"{what} was taken"]
    if not isinstance(error, PenstockError) or not error.fix:
        return [f"{what} raised {type(error).__name__}: {str(error)[:80]}"]
    return []


@pytest.mark.parametrize(
    ("kind", "table"),
    [(Client, CLIENT), (AsyncClient, CLIENT), (JobHandle, HANDLE), (AsyncJobHandle, HANDLE)],
)
def test_every_verb_is_in_the_table(kind: type, table: dict[str, Any]) -> None:
    verbs = {name for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert verbs - INNER <= table.keys()
    for verb in verbs & table.keys():
        taken = set(inspect.signature(getattr(kind, verb)).parameters)
        declared = taken - {"self", "options", "filters", "models", "input"}
        assert declared <= {*table[verb], "input"}, verb


def test_values_that_are_none(client: Client) -> None:
    faults = []
    for verb, arguments in calls(CLIENT):
        faults += fault(verb, arguments, ended(getattr(client, verb), arguments))
    faults += fault("look", {}, ended(client.look, {"models": 5}))
    assert client.list() == [], "what was refused was not stored"
    job = client.enqueue("echo", 1)
    for verb, arguments in calls(HANDLE):
        faults += fault(verb, arguments, ended(getattr(job, verb), arguments))
    assert faults == []


def ended(call: Callable[..., Any], arguments: dict[str, Any]) -> BaseException | None:
    try:
        answer = call(5) if "models" in arguments else call(**arguments)
        if inspect.isgenerator(answer):
            next(answer, None)
    except Exception as error:
        return error
    return None


def test_values_that_are_none_with_await(client_settings: Settings) -> None:
    async def main() -> list[str]:
        faults = []
        async with AsyncClient(client_settings, models=MODELS) as client:
            for verb, arguments in calls(CLIENT):
                if hasattr(client, verb):
                    faults += fault(verb, arguments, await aended(getattr(client, verb), arguments))
            job = await client.enqueue("echo", 1)
            for verb, arguments in calls(HANDLE):
                faults += fault(verb, arguments, await aended(getattr(job, verb), arguments))
        return faults

    assert asyncio.run(main()) == []


async def aended(call: Callable[..., Any], arguments: dict[str, Any]) -> BaseException | None:
    try:
        answer = call(**arguments)
        if inspect.isasyncgen(answer):
            await anext(answer, None)
        else:
            await answer
    except Exception as error:
        return error
    return None


def test_bounds_of_a_list_and_of_a_wait(client: Client) -> None:
    jobs = client.enqueue_many("echo", range(3), tags={"run": "7"}, tenant="acme")
    assert client.list(limit=0) == []
    assert len(client.list(tag=["run", "7"], tenant="acme")) == len(client.list(tenant="acme", tag="run")) == 3  # type: ignore[arg-type]
    with pytest.raises(penstock.ResultTimeout):
        jobs[0].wait(-1)
    jobs[0].cancel()
    assert list(client.as_completed([jobs[0]], float("inf"))) == [jobs[0]]


def test_a_validator_that_raises_is_named(client_settings: Settings) -> None:
    with Client(client_settings, models=[Checked]) as client, pytest.raises(InvalidInput) as caught:
        client.enqueue("checked", {"value": 1})
    assert "'checked'" in caught.value.message and "LookupError: the table of values" in caught.value.message


def test_what_a_values_own_code_raises_is_named(client: Client) -> None:
    with pytest.raises(NotSerializable) as caught:
        client.enqueue("echo", Dumper())
    assert "'echo'" in caught.value.message and "KeyError" in caught.value.message


@pytest.mark.parametrize("arguments", [{"settings": "x"}, {"models": 5}, {"models": [5]}])
def test_clients_of_nothing(arguments: dict[str, Any]) -> None:
    with pytest.raises(PenstockError) as caught:
        Client(**arguments)._runtime()
    assert caught.value.fix
