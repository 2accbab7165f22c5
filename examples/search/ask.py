"""Ask Python's language reference a question: ``python ask.py "How do I catch several exceptions at once?"``.

Needs ``penstock up penstock_cli.examples.search.model`` in another terminal. The passages are embedded once: their
idempotency keys make a second run find the jobs of the first.
"""

from __future__ import annotations

import sys

import penstock
from penstock_cli.examples.search.corpus import passages
from penstock_cli.examples.search.index import Index

LIMIT = 200


def main(question: str) -> None:
    texts = passages(LIMIT)
    index = Index(len(texts))
    with penstock.Client() as client:
        jobs = client.enqueue_many("embed", [text.text for text in texts], idempotency_key=f"reference-{LIMIT}")
        places = {job.id: place for place, job in enumerate(jobs)}
        for job in client.as_completed(jobs, timeout=300):
            index.put(places[job.id], job.result())
        vector = client.run("embed", question, result_timeout=60)
    for place, score in index.nearest(vector, count=3):
        print(f"{score:.2f}  {texts[place].topic}\n{texts[place].text}\n")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How do I catch several exceptions at once?")
