"""Ask Python's language reference a question: ``python ask.py "How do I catch several exceptions at once?"``.

Needs ``penstock up penstock_cli.examples.search.pipeline`` in another terminal, on the same machine: the index is a
folder. The passages are embedded once: their idempotency keys make a second run find the jobs of the first.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import penstock
from penstock_cli.examples.search.corpus import passages
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.pipeline import answer

LIMIT = 200


def main(question: str) -> None:
    texts = passages(LIMIT)
    with tempfile.TemporaryDirectory() as folder, penstock.Client() as client:
        index = Index(texts, Path(folder))
        jobs = client.enqueue_many("embed", [text.text for text in texts], idempotency_key=f"reference-{LIMIT}")
        places = {job.id: place for place, job in enumerate(jobs)}
        for job in client.as_completed(jobs, timeout=300):
            index.put(places[job.id], job.result())
        found = client.run(answer, {"question": question, "index": folder, "count": 3}, result_timeout=60)
    for passage in found:
        print(f"{passage['score']:.2f}  {passage['topic']}\n{passage['text']}\n")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How do I catch several exceptions at once?")
