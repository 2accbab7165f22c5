"""Ids of jobs: UUIDs of version 7, in the order of their milliseconds."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

from penstock.job import new_id


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
    fixed = 0xF << 76 | 0x3 << 62
    for bit in range(80):
        if not fixed >> bit & 1:
            assert 800 < sum(each.int >> bit & 1 for each in read) < 1200, bit
