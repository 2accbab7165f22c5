"""What a model's signature carries of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from celery import chain

import penstock
from penstock.errors import InvalidInput, WebhookRefused

AT = datetime(2080, 1, 2, tzinfo=UTC)


@penstock.model(name="carrier")
def carrier(batch: list[Any]) -> list[Any]:
    """What it is given."""
    return batch


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, {}),
        ({"lane": "background"}, {"queue": "penstock.carrier.background"}),
        ({"priority": 7}, {"priority": 7}),
        ({"priority": 0}, {"priority": 0}),
        ({"deadline": 2.5}, {"expires": 2.5}),
        ({"deadline": AT}, {"expires": AT}),
        ({"timeout": 30}, {"time_limit": 30.0}),
        ({"delay": 60}, {"countdown": 60.0}),
        ({"tenant": "acme"}, {"penstock": {"tenant": "acme"}}),
        ({"tags": {"a": "7"}, "tenant": "b"}, {"penstock": {"tenant": "b", "tags": {"a": "7"}}}),
        ({"webhook": "https://example.com/x"}, {"penstock": {"webhook": "https://example.com/x"}}),
        ({"deadline": None, "timeout": None, "tags": None, "webhook": None, "delay": None}, {}),
    ],
)  # fmt: skip
def test_options_in_celerys_words_where_it_has_them(options: Any, said: dict[str, Any]) -> None:
    using = carrier.using(**options)
    for made in (using.s("x"), using.si("x")):
        assert made.options == {"queue": "penstock.carrier.interactive"} | said
        assert made.args == ("x",)
    assert using.si("x").immutable and not using.s("x").immutable


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lane": "urgent"}, InvalidInput),
        ({"priority": 10}, InvalidInput),
        ({"tenant": ""}, InvalidInput),
        ({"tags": {"a": 1}}, InvalidInput),
        ({"tags": {"a": "x\0y"}}, InvalidInput),
        ({"tags": {"a": "\ud800"}}, InvalidInput),
        ({"timeout": 0}, InvalidInput),
        ({"delay": -1}, InvalidInput),
        ({"deadline": datetime(2030, 1, 2)}, InvalidInput),
        ({"webhook": "http://127.0.0.1/x"}, WebhookRefused),
        ({"idempotency_key": "k"}, TypeError),
        ({"tennant": "acme"}, TypeError),
    ],
)
def test_what_is_wrong_is_told_where_it_is_written(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        carrier.using(**options)


def test_arguments_of_the_model_may_have_the_names_of_options() -> None:
    made = carrier.using(tenant="acme").s(tenant="theirs", priority=3)
    assert made.kwargs == {"tenant": "theirs", "priority": 3}
    assert made.options["penstock"] == {"tenant": "acme"}


def test_a_programs_own_headers_leave_what_is_carried() -> None:
    made = carrier.using(tenant="acme").s("x")
    for changed in (made.clone().set(headers={"mine": 1}), chain(made, made).clone(headers={"mine": 1}).tasks[0]):
        assert changed.options["penstock"] == {"tenant": "acme"}
