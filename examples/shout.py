"""The smallest model: ``penstock up examples/shout.py``, then ``penstock run shout '"hello"'``.

An exception in place of a result fails that item alone. Its batch mates never notice.
"""

from __future__ import annotations

import penstock


@penstock.model(name="shout", max_size=64)
def shout(batch: list[str]) -> list[str | Exception]:
    """Upper case, a whole batch at a time."""
    return [text.upper() if text.strip() else ValueError("there is nothing to shout") for text in batch]


def main() -> None:
    with penstock.Client() as client:
        jobs = client.enqueue_many("shout", ["hello", " ", "world"])
        for job in client.as_completed(jobs, timeout=60):
            print(job.status, job.output or (job.error or {})["message"])


if __name__ == "__main__":
    main()
