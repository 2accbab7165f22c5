"""Ids of jobs: UUIDs of version 7, in the order of their milliseconds."""

from __future__ import annotations

import multiprocessing
import time
from itertools import pairwise
from uuid import RFC_4122, UUID

from penstock.job import new_id
from tests.fixtures.patience import PATIENCE_S


def test_an_id_is_a_uuid_of_version_7_that_says_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    read = [UUID(id) for id in ids]
    assert [str(each) for each in read] == ids and len(set(ids)) == len(ids)
    assert {(each.version, each.variant) for each in read} == {(7, RFC_4122)}
    times = [each.int >> 80 for each in read]
    assert times == sorted(times) and before <= times[0] and times[-1] <= after
    # All bits that are nobody's are random: each is set about as often as not.
    for bit in range(62):
        assert 800 < sum(each.int >> bit & 1 for each in read) < 1200, bit


def test_the_ids_of_a_process_come_in_order() -> None:
    ids = [new_id() for _ in range(20_000)]
    # The count of 4,096 can begin anew within a millisecond.
    assert sum(a >= b for a, b in pairwise(ids)) <= 20_000 / 4096 + 1


def test_two_processes_that_count_alike_have_no_id_in_common() -> None:
    """A child of a fork goes on with its parent's count, in the same millisecond perhaps."""
    child = multiprocessing.get_context("fork").Pool(1)
    with child:
        theirs = child.apply_async(_many)
        ours = _many()
        assert not set(ours) & set(theirs.get(PATIENCE_S))


def _many() -> list[str]:
    return [new_id() for _ in range(20_000)]
