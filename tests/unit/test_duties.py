"""What the reconciler does next, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.duties import NEEDS_BROKER, Diary, Duty, Rhythm, due, wake_at

RHYTHM = Rhythm(expire_every_s=1.0, reconcile_every_s=5.0, prune_every_s=300.0)
IDLE = Diary(now=100.0, done_at=dict.fromkeys(Duty, 100.0), incarnation="r1:e1", reconciled="r1:e1")


def test_a_new_dispatcher_does_everything_once_in_order() -> None:
    """Jobs come back to workers first; what the broker holds is compared id by id."""
    assert due(Diary(now=0.0, incarnation="r1:e1"), RHYTHM) == tuple(Duty)


@pytest.mark.parametrize(
    ("diary", "expected"),
    [
        pytest.param(IDLE, (), id="nothing is due yet"),
        pytest.param(replace(IDLE, now=101.0), (Duty.EXPIRE, Duty.RUNS), id="expiry is watched closely"),
        pytest.param(
            replace(IDLE, now=105.0),
            (
                Duty.RESCUE,
                Duty.RESTORE,
                Duty.TENANTS,
                Duty.REDATE,
                Duty.EXPIRE,
                Duty.RUNS,
                Duty.TASKS,
                Duty.COMPARE,
                Duty.CANVAS,
            ),
            id="the reconciler's rhythm",
        ),
        pytest.param(
            replace(IDLE, now=105.0, incarnation=None),
            (Duty.RESCUE, Duty.REDATE, Duty.EXPIRE, Duty.RUNS),
            id="broker down",
        ),
        pytest.param(replace(IDLE, incarnation="r1:e2"), (Duty.TENANTS, Duty.REPUBLISH), id="wiped: at once"),
        pytest.param(replace(IDLE, incarnation="r2:e1"), (Duty.TENANTS, Duty.REPUBLISH), id="restarted: at once"),
        pytest.param(replace(IDLE, reconciled=None), (Duty.TENANTS, Duty.REPUBLISH), id="never compared"),
        pytest.param(replace(IDLE, mismatches=1), (), id="one odd count is chance"),
        pytest.param(replace(IDLE, mismatches=2), (Duty.REPUBLISH,), id="two are not"),
        pytest.param(
            replace(IDLE, mismatches=2, incarnation=None), (), id="a broker that is down cannot be compared with"
        ),
    ],
)
def test_duties(diary: Diary, expected: tuple[Duty, ...]) -> None:
    assert due(diary, RHYTHM) == expected


def test_after_an_outage_nobody_is_declared_dead_at_once() -> None:
    """While the database was away no worker could renew its lease."""
    diary = replace(IDLE, now=200.0).hold(Duty.RESCUE, 210.0)
    assert Duty.RESCUE not in due(diary, RHYTHM)
    assert Duty.RESTORE in due(diary, RHYTHM)
    assert Duty.RESCUE in due(replace(diary, now=210.0), RHYTHM)


def test_pruning_has_its_own_rhythm() -> None:
    assert Duty.PRUNE not in due(replace(IDLE, now=399.0), RHYTHM)
    assert Duty.PRUNE in due(replace(IDLE, now=400.0), RHYTHM)


def test_it_sleeps_until_something_is_due() -> None:
    assert wake_at(IDLE, RHYTHM) == 101.0
    assert wake_at(replace(IDLE, incarnation=None), RHYTHM) == 101.0


@given(
    now=st.floats(0, 1e6),
    done_at=st.dictionaries(st.sampled_from(Duty), st.floats(0, 1e6)),
    incarnation=st.sampled_from([None, "a", "b"]),
    reconciled=st.sampled_from([None, "a", "b"]),
    mismatches=st.integers(0, 3),
)
def test_it_never_spins(
    now: float, done_at: dict[Duty, float], incarnation: str | None, reconciled: str | None, mismatches: int
) -> None:
    """After everything due was performed (and the comparison made), nothing is due until later."""
    diary = Diary(now=now, done_at=done_at, incarnation=incarnation, reconciled=reconciled, mismatches=mismatches)
    for duty in due(diary, RHYTHM):
        assert diary.broker_up or duty not in NEEDS_BROKER
        diary = diary.did(duty)
        if duty is Duty.REPUBLISH:
            diary = replace(diary, reconciled=incarnation, mismatches=0)
    assert due(diary, RHYTHM) == ()
    assert wake_at(diary, RHYTHM) > now
