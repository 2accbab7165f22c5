"""The files under ``examples/``, each run as its first lines say, against a real stack."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import penstock
from penstock.pipelines import comfyui
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.testing import run_model, run_pipeline
from penstock_cli.examples.search.corpus import passages
from penstock_cli.examples.search.index import Index
from penstock_cli.examples.search.model import Embed
from penstock_cli.examples.search.pipeline import answer, by_meaning, by_words, rerank
from penstock_cli.up import Stack

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def shouting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a stack that serves the small examples."""
    home = tmp_path_factory.mktemp("shout")
    models = [str(EXAMPLES / name) for name in ("shout.py", "babble.py", "creative.py")]
    with Stack(Settings.load(home=home), models, dashboard=False) as stack:
        stack.wait_ready()
        yield home


def run(script: str, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        env=os.environ | {"PENSTOCK_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_shout(shouting: Path) -> None:
    """One item fails alone."""
    lines = sorted(run("shout.py", shouting).splitlines())
    assert lines[0].startswith("failed")
    assert "there is nothing to shout" in lines[0]
    assert lines[1:] == ["succeeded HELLO", "succeeded WORLD"]


def test_gather(shouting: Path) -> None:
    first, *rest = run("gather.py", shouting).splitlines()
    assert first == "200 words, the last is 'WORD 199'"
    assert sorted(rest) == ["succeeded ONE", "succeeded THREE", "succeeded TWO"]


def test_babble(shouting: Path) -> None:
    """The letters that were streamed are those of the result."""
    *text, same = run("babble.py", shouting).splitlines()
    assert same == "True"
    assert "\n".join(text).startswith("Beautiful is ")
    assert len("\n".join(text)) == 120


def test_canvas(shouting: Path) -> None:
    assert run("canvas.py", shouting).splitlines() == ["HELLO", "['ONE', 'TWO']"]


@pytest.fixture(scope="module")
def creative() -> ModuleType:
    """``creative.py``, imported as a source of models is."""
    Registry.load([str(EXAMPLES / "creative.py")])
    return sys.modules["creative"]


def made_of(creative: ModuleType) -> list[Any]:
    return [creative.Write, creative.Judge, creative.Title, creative.first_word, creative.better]


def test_creative(shouting: Path, creative: ModuleType) -> None:
    """The line is the one that is made without servers; what a person does not approve is not taken."""
    made = run_pipeline(creative.compose, {"about": "exception"}, models=made_of(creative), signals={"approval": "yes"})
    assert run("creative.py", shouting) == f"{made['title']}: {made['line']}\n"
    with penstock.Client(home=shouting) as client:
        refused = client.enqueue(creative.compose, {"about": "class"})
        client.signal(refused, "approval", "no")
        assert refused.result(timeout=60) is None
        nothing = client.enqueue(creative.compose, {"about": "penstock"})
        with pytest.raises(penstock.JobFailed, match="says nothing of 'penstock'"):
            nothing.result(timeout=60)


def test_creative_lines_get_better_and_have_a_title(creative: ModuleType) -> None:
    """Of enough words some have a title of their own, and what stands in for it is there for the others."""
    judge = creative.Judge()
    judge.load("cpu")
    own, before, after = set(), 0.0, 0.0
    for about in ("exception", "class", "generator", "object", "name", "value"):
        made = run_pipeline(creative.compose, {"about": about}, models=made_of(creative), signals={"approval": "yes"})
        [first] = run_model(creative.Write, [{"about": about}])
        draft, last = judge.predict([first, made["line"]])
        before, after = before + draft["score"], after + last["score"]
        own.add(made["title"] == about.title())
    assert after > before and own == {True, False}


def test_creative_workflow(shouting: Path, creative: ModuleType) -> None:
    """A graph from an editor gives with workers what it gives without them; a value of it can be a run's input."""
    workflow = (EXAMPLES / "creative_comfyui.json").read_text()
    classes = json.loads((EXAMPLES / "creative_classes.json").read_text())
    graph = comfyui.read(workflow, classes)
    line = run_pipeline(graph, {}, models=made_of(creative))
    asked = comfyui.read(workflow, classes, inputs={"about": ("1", "value")})
    with penstock.Client(home=shouting) as client:
        assert client.run(graph, {}, result_timeout=60) == line
        assert client.run(asked, {"about": "exception"}, result_timeout=60) == line
        other = client.run(asked, {"about": "class"}, result_timeout=60)
    assert line.startswith("exception") and other.startswith("class")


def best_topics(question: str, folder: Path) -> list[str]:
    """The topics that ``ask.py`` ought to name, in its order, by the same pipeline without the queue.

    The reference's text, and with it the best passage, differs from one Python to the next.
    """
    model, texts = Embed(), passages(200)
    model.load("cpu")
    index = Index(texts, folder)
    for start in range(0, len(texts), 20):
        for place, vector in enumerate(model.predict([text.text for text in texts[start : start + 20]]), start):
            index.put(place, vector)
    given = {"question": question, "index": str(folder), "count": 3}
    return [found["topic"] for found in run_pipeline(answer, given, models=[model, by_meaning, by_words, rerank])]


def test_search(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The right topics come first; a second question finds the passages that were embedded for the first one."""
    home = tmp_path_factory.mktemp("search")
    with Stack(Settings.load(home=home), ["penstock_cli.examples.search.pipeline"], dashboard=False) as stack:
        stack.wait_ready()
        assert "debugger" in run("search/ask.py", home, "How do I set a breakpoint?").splitlines()[0]
        question = "Which values are considered false?"
        answers = run("search/ask.py", home, question)
        assert re.findall(r"^0\.\d\d  (\S+)$", answers, re.MULTILINE) == best_topics(question, tmp_path)
        assert "objects considered false" in answers
        with penstock.Client(home=home) as client:
            assert len(client.list(limit=1000)) == 200 + 2


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    scripts = [path for path in EXAMPLES.rglob("*.py") if "def main" in path.read_text()]
    assert [str(path) for path in scripts if f'"{path.relative_to(EXAMPLES)}"' not in source] == []
