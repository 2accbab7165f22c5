"""What the workers of a pool are to be, in SQL, on both databases."""

from __future__ import annotations

import pytest

from penstock.errors import InvalidInput
from penstock.store import Store
from penstock.store.elastic import Elastic, NewSlot
from tests.fixtures.store import T0, lead


@pytest.fixture
def elastic(store: Store) -> Elastic:
    return store.elastic


def told(elastic: Elastic, pool: str = "gpu") -> tuple[str, str, float]:
    found = elastic.rollouts()[pool]
    return found.revision, found.previous, found.share


def come_up(elastic: Elastic, pool: str = "gpu") -> None:
    """A worker of the pool's revision is ready."""
    term = lead(elastic, f"leader-{len(elastic.slots())}")
    spec = elastic.rollouts()[pool].spec
    elastic.change(term, add=[NewSlot(pool=pool, spec=spec)], now=T0)
    [slot] = [slot for slot in elastic.slots() if slot.spec == spec]
    assert elastic.take(slot.id, "w") and elastic.ready(slot.id, "w", now=T0 + 9)


def test_a_pool_that_was_never_rolled_out_is_what_its_settings_say(elastic: Elastic) -> None:
    assert elastic.rollouts() == {}
    assert elastic.steer("gpu", share=0.5, now=T0) is None
    assert elastic.undo("gpu", "2", now=T0) is None


def test_a_rollout_remembers_what_was_before(elastic: Elastic) -> None:
    first = elastic.roll("gpu", "2", {"models": ["a_v2"]}, surge=2, now=T0)
    assert (first.spec, first.previous_spec, first.surge) == ({"models": ["a_v2"], "revision": "2"}, {}, 2)
    come_up(elastic)
    second = elastic.roll("gpu", "3", {"image": "a:3"}, now=T0 + 1)
    assert told(elastic) == ("3", "2", 1.0)
    assert second.spec_of("3") == {"image": "a:3", "revision": "3"}
    assert second.spec_of("2") == {"models": ["a_v2"], "revision": "2"}
    assert (second.begun_at, second.surge) == (T0 + 1, 1)
    elastic.roll("cpu", "9", {}, now=T0)
    assert set(elastic.rollouts()) == {"cpu", "gpu"}


def test_a_canary_that_was_not_promoted_was_never_what_the_pool_is(elastic: Elastic) -> None:
    elastic.roll("gpu", "1", {}, now=T0)
    come_up(elastic)
    elastic.roll("gpu", "2", {}, share=0.1, now=T0)
    elastic.roll("gpu", "3", {}, share=0.1, now=T0)
    assert told(elastic) == ("3", "1", 0.1)
    assert elastic.steer("gpu", share=1.0, now=T0) is not None
    come_up(elastic)
    elastic.roll("gpu", "4", {}, now=T0)
    assert told(elastic) == ("4", "3", 1.0)


def test_what_never_came_up_was_never_what_the_pool_is(elastic: Elastic) -> None:
    elastic.roll("gpu", "1", {}, now=T0)
    come_up(elastic)
    assert elastic.rollouts()["gpu"].proven_at == T0 + 9
    assert elastic.roll("gpu", "2", {}, now=T0).proven_at is None
    elastic.roll("gpu", "3", {}, now=T0)
    assert told(elastic) == ("3", "1", 1.0)
    undone = elastic.undo("gpu", "3", now=T0 + 20)
    assert undone is not None and (undone.revision, undone.proven_at) == ("1", T0 + 20)


def test_the_worker_of_another_revision_proves_nothing(elastic: Elastic) -> None:
    elastic.roll("gpu", "1", {}, now=T0)
    elastic.roll("cpu", "1", {}, now=T0)
    come_up(elastic)
    assert elastic.rollouts()["cpu"].proven_at is None


def test_the_same_revision_again_is_the_same_rollout(elastic: Elastic) -> None:
    elastic.roll("gpu", "1", {}, now=T0)
    come_up(elastic)
    elastic.roll("gpu", "2", {"image": "x"}, share=0.1, now=T0)
    elastic.steer("gpu", paused=True, now=T0)
    again = elastic.roll("gpu", "2", {"image": "x"}, share=0.5, surge=3, now=T0 + 5)
    assert (told(elastic), again.surge, again.paused, again.begun_at) == (("2", "1", 0.5), 3, False, T0)
    with pytest.raises(InvalidInput, match="is something else already"):
        elastic.roll("gpu", "2", {"image": "y"}, now=T0)
    assert told(elastic) == ("2", "1", 0.5), "and nothing was changed"


def test_what_is_steered_leaves_the_rest(elastic: Elastic) -> None:
    elastic.roll("gpu", "2", {}, share=0.1, surge=2, now=T0)
    paused = elastic.steer("gpu", paused=True, now=T0 + 1)
    assert paused is not None
    assert (paused.share, paused.surge, paused.paused, paused.changed_at) == (0.1, 2, True, T0 + 1)
    share = elastic.steer("gpu", share=1.0, now=T0 + 2)
    assert share is not None
    assert (share.share, share.surge, share.paused, share.begun_at) == (1.0, 2, True, T0)


def test_undoing_goes_back_once(elastic: Elastic) -> None:
    elastic.roll("gpu", "1", {"image": "a:1"}, now=T0)
    come_up(elastic)
    elastic.roll("gpu", "2", {"image": "a:2"}, share=0.1, now=T0)
    elastic.steer("gpu", paused=True, now=T0)
    undone = elastic.undo("gpu", "2", now=T0 + 1)
    assert undone is not None
    assert (undone.spec, undone.paused) == ({"image": "a:1", "revision": "1"}, False)
    assert told(elastic) == ("1", "2", 1.0)
    elastic.undo("gpu", "2", now=T0 + 2)
    assert told(elastic) == ("1", "2", 1.0), "who repeats it does not get the bad one again"


def test_undoing_the_first_is_what_the_settings_say(elastic: Elastic) -> None:
    elastic.roll("gpu", "2", {"image": "a:2"}, now=T0)
    undone = elastic.undo("gpu", "2", now=T0)
    assert undone is not None
    assert (undone.revision, undone.spec) == ("", {})
