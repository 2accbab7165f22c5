"""A pool becomes another revision: what is started and what drains, look by look."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.policy.rollout import Member, Rollout, Seen, Step, keepers, step
from penstock.policy.scaling.victims import Phase

TO_2 = Rollout(revision="2", before="1")


def members(text: str) -> list[Member]:
    """``"1i 1b 2s 1k"``: a revision, and idle, busy, starting, parked or (idle and) kept; numbered from 0."""
    phases: dict[str, Phase] = {"i": "idle", "b": "busy", "s": "starting", "p": "parked", "k": "idle"}
    return [
        Member(f"{word}{n}", word[0], phases[word[1]], float(n), keep=word[1] == "k")
        for n, word in enumerate(text.split())
    ]


def look(text: str, target: int, *, most: int = 100, draining: int = 0, stuck: str = "", **asked: object) -> Step:
    return step(
        Seen(
            rollout=replace(TO_2, **asked),  # type: ignore[arg-type]
            members=members(text),
            target=target,
            most=most,
            draining=draining,
            stuck=stuck,
        )
    )


@pytest.mark.parametrize(
    ("here", "target", "options", "add", "drain", "code"),
    [
        # New before old.
        ("1i 1i 1i", 3, {}, {"2": 1}, [], "start"),
        ("1i 1i 1i 2s", 3, {}, {}, [], "wait"),
        ("1b 1i 1b 2i", 3, {}, {}, ["1i1"], "drain"),
        ("1b 1b 2i", 3, {"draining": 1}, {}, [], "wait"),
        ("1b 1b 2i", 3, {}, {"2": 1}, [], "start"),
        ("2i 2b 2i", 3, {}, {}, [], "done"),
        ("1b 2i", 1, {}, {}, ["1b0"], "drain"),
        # More at once.
        ("1i 1i 1i 1i", 4, {"surge": 2}, {"2": 2}, [], "start"),
        ("1i 1i 1i 1i 2i 2i", 4, {"surge": 2}, {}, ["1i3", "1i2"], "drain"),
        # No room: one goes first, and no second one before the new one is ready.
        ("1i 1b", 2, {"most": 2}, {}, ["1i0"], "swap"),
        ("1b", 2, {"most": 2, "draining": 1}, {}, [], "wait"),
        ("1b", 2, {"most": 2}, {"2": 1}, [], "start"),
        ("1b 2s", 2, {"most": 2}, {}, [], "wait"),
        ("1b 2i", 2, {"most": 2}, {}, ["1b0"], "swap"),
        ("1i", 1, {"most": 1}, {}, ["1i0"], "swap"),
        # What does not come up stops there.
        ("1i 1i 2s", 2, {"stuck": "CrashLoop"}, {}, [], "stuck"),
        ("1i 2s", 2, {"most": 2, "stuck": "no room"}, {}, [], "stuck"),
        # One that has begun, and for which there is no place, gets one: that of somebody else.
        ("1i 1i 2s", 2, {"stuck": "Unschedulable"}, {}, [], "stuck"),
        ("1i 1i 2s", 2, {"most": 2, "stuck": "no device is free"}, {}, ["1i1"], "swap"),
        ("1i 1i 2s", 2, {"surge": 0, "stuck": "Unschedulable"}, {}, ["1i1"], "swap"),
        ("1i 2s", 2, {"surge": 0, "stuck": "Unschedulable", "draining": 1}, {}, [], "stuck"),
        ("1i 2s", 2, {"surge": 0, "stuck": "Unschedulable"}, {}, [], "stuck"),
        # Nothing depends on a revision of which nobody was ever ready: a burst is for those that are known to work.
        ("1i 1i 2s", 6, {}, {"1": 4}, [], "start"),
        ("1i 1i", 6, {}, {"2": 1, "1": 4}, [], "start"),
        # Afterwards it is for the new ones.
        ("1i 1i 2i", 6, {}, {"2": 4}, [], "start"),
        # Where nobody is left of the old, or ever was, all are new.
        ("", 3, {}, {"2": 3}, [], "start"),
        ("2s 2s", 3, {}, {"2": 1}, [], "start"),
        ("", 0, {}, {}, [], "done"),
        # The load goes: the old go first, whatever they do; old ones that are starting at once.
        ("1s 1i 2i", 2, {}, {}, ["1s0"], "drain"),
        ("1b 2i 2i", 1, {}, {}, ["1b0", "2i2"], "drain"),
        ("2i 2b 2i", 2, {}, {}, ["2i2"], "drain"),
        ("1i 2i", 0, {}, {}, ["1i0", "2i1"], "drain"),
        # Parked ones of the old revision would wake as it.
        ("1p 2i", 1, {}, {}, ["1p0"], "drain"),
        ("2p 2i", 1, {}, {}, [], "done"),
        ("1p 1i 2i", 2, {"share": 0.5}, {}, [], "canary"),
        # A canary.
        ("1i 1i 1i 1i", 4, {"share": 0.25}, {"2": 1}, [], "start"),
        ("1i 1i 1i 1i 2i", 4, {"share": 0.25}, {}, ["1i3"], "drain"),
        ("1i 1i 1i 2i", 4, {"share": 0.25}, {}, [], "canary"),
        ("1i 1i 1i 2i", 8, {"share": 0.25}, {"2": 1, "1": 3}, [], "start"),
        ("1i 1i 2i 2i", 4, {"share": 0.25}, {"1": 1}, [], "start"),
        ("1i 1i 1i 2i 2i", 4, {"share": 0.25}, {}, ["2i4"], "drain"),
        ("1i", 1, {"share": 0.01}, {"2": 1}, [], "start"),
        ("1i 2i", 1, {"share": 0.01}, {}, [], "canary"),
        ("1i", 1, {"share": 0.5, "most": 1}, {}, [], "full"),
        ("1i 2i", 0, {"share": 0.5}, {}, ["1i0", "2i1"], "drain"),
        ("1i 1i 2i", 2, {"share": 0.0}, {}, ["2i2"], "drain"),
        # Jobs ask for a version of the old.
        ("1k 1i 2i", 2, {}, {}, ["1i1"], "drain"),
        ("1k 2i", 2, {}, {}, [], "kept"),
        ("1k", 1, {}, {"2": 1}, [], "start"),
        ("1k 2i", 1, {}, {}, [], "kept"),
        ("1k", 1, {"most": 1}, {}, [], "kept"),
        # Paused, scaling goes on.
        ("1i 1i 2i", 3, {"paused": True}, {}, [], "paused"),
        ("1i 1i 2s", 3, {"paused": True}, {}, [], "paused"),
        ("1i 1i 2i", 4, {"paused": True}, {"1": 1}, [], "paused"),
        ("1i 1i 2i", 2, {"paused": True}, {}, ["1i1"], "paused"),
    ],
)
def test_a_step(
    here: str, target: int, options: dict[str, object], add: dict[str, int], drain: list[str], code: str
) -> None:
    taken = look(here, target, **options)  # type: ignore[arg-type]
    assert (dict(taken.add), list(taken.drain), taken.code) == (add, drain, code), taken.reason


def test_where_nothing_else_can_be_started_all_that_is_started_is_new() -> None:
    taken = look("1i 1i", 4, before="2")
    assert dict(taken.add) == {"2": 3}


def test_the_reason_is_for_a_person() -> None:
    assert look("1i", 1, most=1).reason.endswith("it is the only one, so nobody serves meanwhile")
    assert look("1i 2s", 1, stuck="ImagePullBackOff").reason == (
        "the new workers do not come up, and the old ones stay: ImagePullBackOff"
    )
    assert look("1i 1i 2i", 3).reason == "workers start: 1 of 1 workers of '2' are ready, 2 others are there"


E1, E2, OCR = ("embed", "1"), ("embed", "2"), ("ocr", "7")


@pytest.mark.parametrize(
    ("here", "serves", "asked", "kept"),
    [
        ("1i 1i", {0: {E1}, 1: {E1}}, {E1}, {0}),
        ("1s 1i", {0: {E1}, 1: {E1}}, {E1}, {1}),
        ("1i 2i", {0: {E1, OCR}, 1: {E2, OCR}}, {OCR, E2}, set()),
        ("1i 2s", {0: {E1, OCR}, 1: {E2, OCR}}, {OCR}, {0}),
        ("1i 1i 1i", {0: {E1}, 1: {OCR}, 2: {E1, OCR}}, {E1, OCR}, {2}),
        ("1i 1i", {0: {E1}, 1: {OCR}}, {E1, OCR}, {0, 1}),
        ("1i", {0: {E1}}, {("gone", "0")}, set()),
        ("1i", {}, {E1}, set()),
        ("", {}, {E1}, set()),
    ],
)
def test_as_few_stay_as_it_takes_for_the_versions_that_are_asked_for(
    here: str, serves: dict[int, set[tuple[str, str]]], asked: set[tuple[str, str]], kept: set[int]
) -> None:
    these = members(here)
    announced = {these[n].id: frozenset(what) for n, what in serves.items()}
    found = keepers(these, announced, frozenset(asked), "2")
    assert found == {these[n].id for n in kept}


@dataclass
class Pool:
    """A pool on which steps are taken: what is started becomes ready some looks later, what drains is gone later."""

    here: list[Member]
    leaving: list[tuple[str, int]]
    came: int = 0

    def take(self, taken: Step) -> None:
        gone = set(taken.drain)
        assert not {m.id for m in self.here if m.keep} & gone, "what is kept stays"
        self.leaving += [(id, 2) for id in gone]
        self.here = [member for member in self.here if member.id not in gone]
        for revision, count in taken.add.items():
            for _ in range(count):
                self.came += 1
                self.here.append(Member(f"n{self.came}", revision, "starting", 100.0 + self.came))

    def passes(self, *, comes_up: bool) -> None:
        self.leaving = [(id, left - 1) for id, left in self.leaving if left > 1]
        self.here = [
            replace(member, phase="idle")
            if member.phase == "starting" and (comes_up or member.revision != "2")
            else member
            for member in self.here
        ]

    @property
    def ready(self) -> int:
        return sum(member.phase in ("idle", "busy") for member in self.here)


old_workers = st.lists(st.sampled_from(["1i", "1b"]), min_size=1, max_size=8).map(" ".join)


@given(old_workers, st.integers(0, 3), st.integers(0, 3), st.floats(0.01, 1.0))
def test_a_rollout_ends_and_there_is_never_a_gap(here: str, surge: int, spare: int, share: float) -> None:
    """With room for one more, as many are ready all the time as were; without it, one less."""
    pool = Pool(members(here), [])
    target = len(pool.here)
    most = target + spare
    least = target if min(surge, spare) else target - 1
    rollout = replace(TO_2, surge=surge, share=share)
    for _ in range(20 * target):
        assert len(pool.here) + len(pool.leaving) <= most
        taken = step(Seen(rollout=rollout, members=pool.here, target=target, most=most, draining=len(pool.leaving)))
        pool.take(taken)
        assert pool.ready >= least
        if taken.code in ("done", "canary", "full"):
            break
        pool.passes(comes_up=True)
    else:
        raise AssertionError(f"it never ends: {taken}")
    new = sum(member.revision == "2" for member in pool.here)
    assert new == target if share == 1.0 else new >= 1 or most == 1
    assert not taken.add
    assert not taken.drain


@given(old_workers, st.integers(0, 3), st.integers(0, 3), st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_a_revision_that_never_comes_up_costs_one_worker_at_most(
    here: str, surge: int, spare: int, targets: list[int]
) -> None:
    """Whatever the load does meanwhile: what is wanted comes up as what it was before."""
    pool = Pool(members(here), [])
    for target in (len(pool.here), *targets):
        most = target + spare
        for _ in range(6):
            taken = step(
                Seen(
                    rollout=replace(TO_2, surge=surge),
                    members=pool.here,
                    target=target,
                    most=most,
                    draining=len(pool.leaving),
                    stuck="CrashLoop" if any(m.phase == "starting" for m in pool.here) else "",
                )
            )
            pool.take(taken)
            pool.passes(comes_up=False)
        failing = sum(member.revision == "2" for member in pool.here)
        assert failing <= max(1, surge)
        if not any(member.revision != "2" for member in pool.here):
            return  # scaled to nothing: what is started from nothing is the new revision
        assert pool.ready >= target - (0 if min(surge, spare) else 1)
