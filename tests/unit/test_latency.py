"""The latency model: what it learns, and what it says of itself."""

from __future__ import annotations

import json
import random

import pytest

from penstock.policy.latency import (
    ALL_NEW,
    ERRORS_STORED,
    HALF_LIFE,
    MARGIN_MAX,
    MOST_SHAPES,
    LatencyBook,
    LatencyModel,
)


def learn(
    model: LatencyModel, alpha: float, beta: float, sizes: list[int], count: int, noise: float = 0.0, seed: int = 1
) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        size = rng.choice(sizes)
        model.observe(size, (alpha + beta * size) * max(0.5, rng.gauss(1.0, noise)))


@pytest.mark.parametrize(("alpha", "beta"), [(8e-3, 0.25e-3), (2e-3, 0.1e-3), (40e-3, 4e-3), (0.0, 1e-3)])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_it_finds_the_line(alpha: float, beta: float, noise: float) -> None:
    model = LatencyModel()
    learn(model, alpha, beta, [1, 2, 4, 8, 16, 64], 600, noise)
    for size in (1, 8, 64):
        assert model.predict(size) == pytest.approx(alpha + beta * size, rel=0.03)


def test_four_probes_are_enough_on_a_steady_device() -> None:
    model = LatencyModel()
    for size in (1, 2, 4, 8):
        model.observe(size, 8e-3 + 0.25e-3 * size)
    assert model.predict(64) == pytest.approx(24e-3, rel=0.02)


def test_one_size_for_long_does_not_forget_the_slope() -> None:
    model = LatencyModel()
    learn(model, 8e-3, 0.25e-3, [1, 2, 4, 8, 32, 64], 400, 0.05)
    learn(model, 8e-3, 0.25e-3, [8], 3 * HALF_LIFE, 0.05)
    assert model.predict(64) == pytest.approx(24e-3, rel=0.1)


def test_it_follows_a_device_that_becomes_slower() -> None:
    model = LatencyModel()
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], 500)
    learn(model, 16e-3, 0.5e-3, [1, 8, 64], 4 * HALF_LIFE)
    assert model.predict(32) == pytest.approx(32e-3, rel=0.1)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_the_margin_keeps_98_percent_on_time(noise: float) -> None:
    model, rng = LatencyModel(), random.Random(3)
    late = 0
    for turn in range(6000):
        size = rng.choice([1, 4, 16, 64])
        took = (8e-3 + 0.25e-3 * size) * max(0.3, rng.gauss(1.0, noise))
        if turn >= 1000:
            late += took > model.bound(size)
        model.observe(size, took)
    assert 0.005 < late / 5000 < 0.03
    assert model.margin < 1.0 + 4 * noise + 0.05


def test_lines_never_fall() -> None:
    """A larger batch that happened to be quicker does not make larger batches look free or negative."""
    model = LatencyModel()
    for _ in range(50):
        model.observe(1, 0.010)
        model.observe(32, 0.008)
    assert model.beta > 0
    assert model.alpha >= 0
    assert model.predict(64) > model.predict(1)


def test_a_pause_of_the_machine_does_not_bend_the_line() -> None:
    model = LatencyModel()
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], 200)
    before = model.predict(64)
    model.observe(64, 3.0)
    assert model.predict(64) == pytest.approx(before)
    assert model.margin <= MARGIN_MAX


@pytest.mark.parametrize(("cost", "seconds"), [(0, 1.0), (1, 0.0), (-1, 1.0), (1, -1.0), (float("nan"), 1.0)])
def test_nonsense_is_passed_over(cost: float, seconds: float) -> None:
    model = LatencyModel()
    model.observe(cost, seconds)
    assert model.seen == 0


def test_within_is_the_inverse_of_bound() -> None:
    model = LatencyModel()
    assert model.within(1.0) == float("inf")
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], 200)
    assert model.bound(model.within(0.05)) == pytest.approx(0.05)
    assert model.within(0.004) == 0.0


def test_the_error_is_that_of_the_predictions() -> None:
    model = LatencyModel()
    assert model.error() is None
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], 600, 0.02)
    error = model.error()
    assert error is not None
    assert 0.02 < error < 0.10


def test_a_restored_model_predicts_the_same_and_goes_on_learning() -> None:
    model = LatencyModel()
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], 1000)
    again = LatencyModel.restore(json.loads(json.dumps(model.state())))
    assert again.bound(32) == model.bound(32)
    assert again.largest == 64
    learn(again, 16e-3, 0.25e-3, [1, 8, 64], 3 * HALF_LIFE)
    assert again.predict(1) == pytest.approx(16.25e-3, rel=0.1)


def test_a_restored_model_remembers_how_wrong_it_was() -> None:
    model = LatencyModel()
    learn(model, 8e-3, 0.25e-3, [1, 8, 64], ERRORS_STORED + 100, 0.05)
    state = json.loads(json.dumps(model.state()))
    again = LatencyModel.restore(state)
    assert again.report()["error_of"] == ERRORS_STORED
    newest = LatencyModel.restore(state | {"errors": state["errors"][-100:]})
    learn(newest, 8e-3, 0.25e-3, [8], 100)
    assert newest.report()["error_of"] == 200, "the new ones come to the old ones"
    assert again.error(0.5) == pytest.approx(model.error(0.5), rel=0.3)
    assert again.error(0.99) == pytest.approx(model.error(0.99), rel=0.5)
    assert LatencyModel.restore({name: x for name, x in state.items() if name != "errors"}).report() == {}
    assert len(json.dumps(state)) < 2500, "it is written with a heartbeat"


def test_a_new_kind_of_batch_borrows_its_models_line() -> None:
    book = LatencyBook()
    book.observe("m", 8, 0.010, "long")
    assert book.line("m", "short").predict(8) == pytest.approx(0.010)
    book.observe("m", 8, 0.002, "short")
    assert book.line("m", "short").predict(8) == pytest.approx(0.002)
    assert book.line("m", "long").predict(8) == pytest.approx(0.010)
    assert {key for key, _ in book.items()} == {("m", ""), ("m", "long"), ("m", "short")}
    other = LatencyBook()
    other.restore("m", [(key, line.state()) for (_, key), line in book.items()])
    assert other.line("m", "short").predict(8) == pytest.approx(0.002)


def test_kinds_that_were_not_seen_for_longest_are_forgotten() -> None:
    """Keys are what users send; whole models are few, and stay."""
    book = LatencyBook(most=3)
    for key in ("a", "b", "c", "a", "d"):
        book.observe("m", 1.0, 0.01, key)
    assert {name for name, _ in book.items()} == {("m", ""), ("m", "c"), ("m", "a"), ("m", "d")}
    book.restore("n", [("x", book.line("m", "a").state())])
    assert {name for name, _ in book.items()} == {("m", ""), ("m", "a"), ("m", "d"), ("n", "x")}
    assert book.line("m", "a").seen == 2, "the one that came back was known"


def test_the_first_call_of_a_shape_is_told_from_the_others() -> None:
    """A shape is a key and a number of items; of each model its own, and anew when it is loaded again."""
    book = LatencyBook()
    assert [book.first("m", 4) for _ in range(3)] == [True, False, False]
    assert book.first("m", 5) and book.first("m", 4, "512x512") and book.first("other", 4)
    assert not book.first("m", 4)
    book.loaded("m")
    assert book.first("m", 4) and not book.first("other", 4)


def test_where_every_shape_is_new_the_first_calls_are_what_batches_take() -> None:
    book = LatencyBook()
    found = [book.first("m", 1, f"{n}") for n in range(ALL_NEW + 5)]
    assert found == [True] * ALL_NEW + [False] * 5
    assert not book.first("m", 1, "0"), "one that it knows"
    assert book.first("m", 1, "new"), "and a new one is rare again"


def test_shapes_that_users_choose_do_not_fill_the_memory() -> None:
    """Of too many the one that was not used for longest is forgotten."""
    book = LatencyBook()
    for n in range(MOST_SHAPES):
        book.first("m", 1, f"{n}")
    assert not book.first("m", 1, "0")
    book.first("m", 1, "one too many")
    assert not book.first("m", 1, "0")
    assert book.first("m", 1, "1")
