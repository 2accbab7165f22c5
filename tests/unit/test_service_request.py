"""Options of a request: what is accepted, and what each refusal says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from penstock.dispatch.catalog import Target
from penstock.dispatch.request import many, terms
from penstock.errors import InvalidInput, NotSerializable, WebhookRefused
from penstock.lane import Lane

NOW = 1_700_000_000.0


def check(**options: Any) -> Any:
    return terms(now=NOW, default_lane=Lane.INTERACTIVE, **options)


@pytest.mark.parametrize(
    ("name", "says"), [("priorty", "did you mean 'priority'"), ("zzz", "there are budget, deadline")]
)
def test_a_misspelt_option_is_named(name: str, says: str) -> None:
    with pytest.raises(TypeError, match=f"no option '{name}': {says}") as caught:
        check(**{name: 1})
    assert "terms" not in str(caught.value)


@pytest.mark.parametrize("inputs", ["hello", b"hello", {"a": 1}, 5])
def test_one_input_is_not_many(inputs: Any) -> None:
    with pytest.raises(InvalidInput, match="not many inputs"):
        many(inputs)


NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "value",
    [b"x", bytearray(b"x"), {1, 2}, float("nan"), {"a": [1, float("inf")]}, NESTED],
    ids=["bytes", "bytearray", "set", "nan", "infinity", "nested"],
)
def test_what_json_has_not_is_no_input(value: Any) -> None:
    with pytest.raises(NotSerializable):
        Target("m", "1").encode(value, 2**20)


@pytest.mark.parametrize("value", [None, [1, None], "null", (1.5, "NaN")])
def test_what_json_has_is_an_input(value: Any) -> None:
    assert Target("m", "1").encode(value, 2**20) == json.dumps(value, separators=(",", ":"))


def test_defaults() -> None:
    checked = check()
    assert (checked.lane, checked.tenant, checked.priority) == (Lane.INTERACTIVE, "default", 0)
    assert checked.available_at == checked.accepted_at == NOW
    assert checked.deadline_at is checked.timeout_s is checked.tags is None


def test_times_become_unix_seconds() -> None:
    assert check(deadline=2.5).deadline_at == NOW + 2.5
    assert check(deadline=datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=3)).deadline_at == NOW + 3
    assert check(deadline=-5).deadline_at == NOW - 5  # not refused: it expires
    assert check(delay=60).available_at == NOW + 60
    assert check(delay=0).available_at == NOW
    assert check(timeout=30).timeout_s == 30.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lane": "interactiv"}, "did you mean lane='interactive'"),
        ({"lane": "zzz"}, "use one of interactive, background"),
        ({"priority": 10}, "whole number from 0 to 9"),
        ({"priority": -1}, "whole number from 0 to 9"),
        ({"priority": True}, "whole number"),
        ({"priority": 1.0}, "whole number"),
        ({"timeout": 0}, "more than 0"),
        ({"timeout": -1}, "more than 0"),
        ({"timeout": float("nan")}, "more than 0"),
        ({"timeout": "30"}, "in seconds"),
        ({"delay": -1}, "0 or more"),
        ({"delay": float("inf")}, "0 or more"),
        ({"delay": 1e12}, "longer than a hundred years"),
        ({"delay": 10**400}, "longer than a hundred years"),
        ({"timeout": 1e12}, "longer than a hundred years"),
        ({"deadline": 1e12}, "further away than a hundred years"),
        ({"deadline": -1e12}, "further away than a hundred years"),
        ({"deadline": 10**400}, "further away than a hundred years"),
        ({"deadline": float("nan")}, "no time"),
        ({"deadline": datetime.max.replace(tzinfo=UTC)}, "further away than a hundred years"),
        ({"deadline": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}, "further away than a hundred years"),
        ({"deadline": "tomorrow"}, "aware datetime"),
        ({"deadline": datetime(2030, 1, 1)}, "no time zone"),
        ({"tags": {"run": 7}}, 'tags={"run": "7"}'),
        ({"tags": ["run"]}, 'tags={"run": "7"}'),
        ({"tags": {str(i): "x" for i in range(65)}}, "at most 64"),
        ({"tags": {"a": "x" * 256}}, "at most 255"),
        ({"tenant": ""}, "1 to 255"),
        ({"tenant": "a\x00b"}, "printable"),
        ({"tenant": 5}, "printable"),
        ({"idempotency_key": "k" * 256}, "1 to 255"),
        ({"webhook": "not a url"}, "percent-encode"),
        ({"webhook": "ftp://example.com/"}, "http"),
        ({"webhook": 5}, "not a URL"),
    ],
)
def test_faults_say_what_to_write_instead(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(**options)
    assert says in str(caught.value)
    assert caught.value.fix


def test_a_webhook_into_a_private_network_is_refused() -> None:
    with pytest.raises(WebhookRefused):
        check(webhook="https://127.0.0.1/done")
    assert check(webhook="http://127.0.0.1/done", allow_private=True).webhook


def test_a_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="priorty"):
        check(priorty=5)


def test_texts_of_other_types_are_texts() -> None:
    class Word(StrEnum):
        A = "a"

    checked = check(tenant=Word.A, idempotency_key=Word.A, tags={Word.A: np.str_("b")})
    assert [type(each) for each in (checked.tenant, checked.idempotency_key)] == [str, str]
    assert {(type(name), type(value)) for name, value in checked.tags.items()} == {(str, str)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_parallel": 0}, "max_parallel=0"),
        ({"max_parallel": 1001}, "1 to 1,000"),
        ({"max_parallel": 2.0}, "max_parallel=2.0"),
        ({"budget": -0.5}, "budget=-0.5"),
        ({"budget": float("nan")}, "budget=nan"),
        ({"budget": True}, "budget=True"),
    ],
)
def test_a_runs_bounds_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(**options)
    assert says in str(caught.value) and caught.value.fix
    checked = check(max_parallel=8, budget=2)
    assert (checked.max_parallel, checked.budget_s) == (8, 2)
