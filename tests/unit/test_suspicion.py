"""Who runs alone and who is quarantined, as a table; and how often an innocent is, by simulation."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest

from penstock.policy.suspicion import (
    DRAIN_S,
    PATIENCE_S,
    ROUND_S,
    Evidence,
    Sentence,
    after_loss,
    first_group,
    open_lines,
    runs_alone,
)

AGAIN, ALONE, QUARANTINE = Sentence.AGAIN, Sentence.ALONE, Sentence.QUARANTINE

#: What was known, whether the worker died, how many jobs it held; then what is known, and the sentence (two kills).
LOSSES = [
    ("stopped, not dead", (0, 0), False, 1, (0, 0), AGAIN),
    ("a suspect of a stopped worker", (1, 1), False, 1, (1, 1), ALONE),
    ("dead with a batch", (0, 0), True, 32, (1, 0), ALONE),
    ("dead with a batch of one", (0, 0), True, 1, (1, 1), ALONE),
    ("a suspect dead alone", (1, 0), True, 1, (2, 1), ALONE),
    ("a suspect dead alone again", (2, 1), True, 1, (3, 2), QUARANTINE),
    ("a batch of one, twice", (1, 1), True, 1, (2, 2), QUARANTINE),
    ("beside a finished job", (2, 1), True, 2, (3, 1), ALONE),
    ("stuck before, then dead alone", (1, 0), True, 1, (2, 1), ALONE),
]


@pytest.mark.parametrize(
    ("before", "died", "held", "after", "sentence"), [row[1:] for row in LOSSES], ids=[row[0] for row in LOSSES]
)
def test_sentences(before, died, held, after, sentence) -> None:
    found = after_loss(Evidence(*before), died=died, held=held, max_kills=2)
    assert found == (Evidence(*after), sentence)
    assert runs_alone(found[0]) == (sentence is not AGAIN)


def test_one_kill_can_be_enough() -> None:
    assert after_loss(Evidence(), died=True, held=1, max_kills=1)[1] is QUARANTINE


@dataclass
class Waiter:
    suspect: bool


@pytest.mark.parametrize(
    ("suspects", "count"), [("", 0), ("...", 3), ("s..", 1), (".s.", 1), ("..s", 2), ("ss", 1), ("s", 1)]
)
def test_a_suspect_shares_no_batch(suspects: str, count: int) -> None:
    assert first_group([Waiter(letter == "s") for letter in suspects]) == count


def quarantined(*, kills: int, jobs: int, size: int, max_kills: int, rng: random.Random) -> int:
    """Innocent jobs that are quarantined when ``kills`` workers are killed from outside at random moments.

    A run takes one unit of time whatever its size, and the killed worker is always at work: the worst case.
    """
    fresh, suspects, out = jobs, deque[Evidence](), 0
    while fresh or suspects:
        # The kills that are left are spread over the runs that are left, fresh ones and suspects' in turn.
        runs = -(-fresh // size) + len(suspects)
        killed = rng.random() < kills / runs
        kills -= killed
        if rng.random() * runs < len(suspects):
            held, evidence = 1, suspects.popleft()
        else:
            held, evidence = min(size, fresh), Evidence()
            fresh -= held
        if killed:
            evidence, sentence = after_loss(evidence, died=True, held=held, max_kills=max_kills)
            if sentence is QUARANTINE:
                out += held
            else:
                suspects.extend([evidence] * held)
    return out


def test_random_kills_quarantine_few_innocents() -> None:
    """Twenty kills among 5,000 jobs in batches of 32: one solo death would be too little to go by."""
    rng = random.Random(52)

    def total(max_kills: int) -> int:
        return sum(quarantined(kills=20, jobs=5000, size=32, max_kills=max_kills, rng=rng) for _ in range(20))

    hasty, patient = total(1), total(2)
    print("quarantined of 20 times 5,000 jobs:", hasty, patient)
    assert hasty > 20, "the simulation kills suspects, too"
    assert patient <= hasty / 20


@pytest.mark.parametrize(
    ("what", "suspects", "held", "holds_suspect", "now", "expected"),
    [
        ("nobody is suspect", {}, 3, False, 0.0, "abc"),
        ("a suspect runs", {}, 1, True, 0.0, ""),
        ("others wait for nobody", {"b": 0.0}, 3, False, 1.0, "ac"),
        ("nothing runs: it is its turn", {"b": 0.0}, 0, False, 1.0, "b"),
        ("it has waited: nothing begins", {"b": 0.0}, 3, False, PATIENCE_S, ""),
        ("it did not end: others go on", {"b": 0.0}, 3, False, PATIENCE_S + DRAIN_S, "ac"),
        ("and again", {"b": 0.0}, 3, False, ROUND_S + PATIENCE_S, ""),
        ("the one that came first counts", {"b": 100.0, "c": 0.0}, 3, False, PATIENCE_S, ""),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_suspect_is_held_by_itself(what, suspects, held, holds_suspect, now, expected) -> None:
    assert open_lines("abc", suspects, held=held, holds_suspect=holds_suspect, now=now) == set(expected)
