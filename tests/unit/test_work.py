"""Work in device seconds: what comes, what waits, how long a job takes."""

from __future__ import annotations

import pytest

from penstock.policy.work import Count, Pace, Queue, after, due, first, pace


def looks(*counts: Count, every_s: float = 1.0) -> list[Queue]:
    """The queue after each look."""
    found = [first(counts[0])]
    for count in counts[1:]:
        found.append(after(found[-1], count, elapsed_s=every_s))
    return found


def test_what_comes_is_the_growth_of_what_is_there_and_what_was_done() -> None:
    *_, last = looks(Count(there=10), Count(there=12, done=5))
    assert last.came == 7


def test_what_was_refused_has_come_and_is_not_there() -> None:
    *_, last = looks(Count(there=10, refused=100), Count(there=10, done=5, refused=130))
    assert (last.came, last.refused) == (35, 30)
    *_, later = looks(Count(refused=100), Count(refused=130), Count(refused=130))
    assert (later.came, later.refused) == (0, 0)
    *_, lost = looks(Count(refused=100), Count(refused=2))
    assert lost.refused == 0


def test_what_runs_counts_until_it_is_done_and_then_once() -> None:
    """A job on a device is held; its end takes it off what is there and puts it to what was done."""
    came = [queue.came for queue in looks(Count(there=1), Count(there=1), Count(there=0, done=1), Count(done=1))]
    assert came == [0, 0, 0, 0]


@pytest.mark.parametrize("every_s", [0.2, 1.0, 3.0])
def test_a_backlog_that_is_worked_off_is_no_new_work_though_its_words_come_late(every_s: float) -> None:
    """Twenty jobs a second, told once a second and up to a second late."""
    counts = []
    for look in range(60):
        at = look * every_s
        done = int(20 * (at + 0.35))
        counts.append(Count(there=5000 - done, held=4, done=20 * int(at)))
    came = sum(queue.came for queue in looks(*counts, every_s=every_s)[10:])
    assert came <= 0.15 * 20 * 50 * every_s


def test_jobs_that_were_cancelled_hide_no_new_ones() -> None:
    """Workers cannot have done a thousand jobs in a second: nothing is set off for those."""
    counts = [Count(there=2000 - 20 * n, held=4, done=20 * n) for n in range(10)]
    last = counts[-1]
    counts.append(Count(there=last.there - 1000, held=4, done=last.done))
    counts.append(Count(there=last.there - 1000 + 200, held=4, done=last.done + 20))
    assert looks(*counts)[-1].came > 220 - 70


def test_a_broker_that_has_lost_its_data_is_begun_with_anew() -> None:
    last = looks(Count(there=5, done=900, device_s=90.0), Count(there=3, done=2, device_s=0.1))[-1]
    assert (last.came, last.owed) == (0, 0)


def test_a_jobs_time_is_measured_and_the_newest_counts_most() -> None:
    counts = [Count(done=n * 10, device_s=n * 1.0) for n in range(60)]
    counts += [Count(done=600 + n * 10, device_s=60 + n * 3.0) for n in range(300)]
    assert looks(*counts)[-1].measured_s == pytest.approx(0.3, rel=0.02)
    assert looks(Count(there=5))[-1].measured_s is None


def test_what_was_measured_before_gives_way_to_news() -> None:
    old = Count(done=10**6, device_s=10**6)
    new = Count(done=10**6 + 100, device_s=10**6 + 1.0)
    assert looks(old)[0].measured_s == 1.0
    measured = looks(old, new)[1].measured_s
    assert measured is not None and measured < 0.03


LINE = {"alpha": 0.04, "beta": 0.001, "largest": 16.0}


def test_a_job_takes_its_share_of_a_full_batch() -> None:
    found = pace(LINE, size=16, target_s=1.0)
    assert found == Pace(0.04, 0.001, 16)
    assert found.job_s == pytest.approx(0.04 / 16 + 0.001)


def test_jobs_that_are_few_are_one_batch() -> None:
    found = Pace(0.04, 0.001, 16)
    assert found.seconds(1) == pytest.approx(0.041)
    assert found.seconds(3) == pytest.approx(0.043)
    assert found.seconds(160) == pytest.approx(10 * 0.056)
    assert found.seconds(0) == 0


def test_a_target_that_full_batches_miss_is_kept_with_smaller_ones() -> None:
    slow = {"alpha": 0.01, "beta": 0.01, "largest": 64.0}
    found = pace(slow, size=64, target_s=1.0)
    assert found is not None and 1 < found.size < 64


def test_costs_of_a_jobs_own_are_measured() -> None:
    tokens = {"alpha": 0.01, "beta": 0.0001, "largest": 4000.0}
    assert pace(tokens, size=16, target_s=1.0, measured_s=0.2) == Pace(0.0, 0.2)
    assert pace(tokens, size=16, target_s=1.0) is None
    assert pace(LINE, size=16, target_s=1.0, measured_s=2.0, steps=True) == Pace(0.0, 2.0)


def test_nothing_is_known_of_a_model_that_has_not_run() -> None:
    assert pace(None, size=16, target_s=1.0) is None


def test_deadlines_are_told_by_their_slack_where_the_times_are_known() -> None:
    assert due([(105.0, "a"), (103.0, "b"), (99.0, "a")], {"a": 0.5}, now=100.0) == [(5.0, 0.5), (-1.0, 0.5)]
