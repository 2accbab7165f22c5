"""The documentation says what is true: links lead somewhere, generated pages are current, code parses."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest

import penstock
import penstock.errors
from penstock import clock
from penstock.settings import Settings
from penstock.webhooks import Signer, new_key

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """A page's headings as GitHub names them."""
    text = BLOCK.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in HEADING.findall(text)}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text()):
            if found == language:
                yield str(page.relative_to(ROOT)), text


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue  # the web changes without us
        path = (page.parent / target) if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_settings_page_is_current() -> None:
    """``make docs`` writes it."""
    spec = importlib.util.spec_from_file_location("gen_settings", ROOT / "docs" / "gen_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.render()


def test_every_setting_says_what_it_is() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert re.findall(r"^\| `([\w.]+)` .*\|  \|$", page, re.MULTILINE) == []


@pytest.mark.parametrize(("page", "code"), [pytest.param(*block, id=block[0]) for block in blocks("python")])
def test_python_parses(page: str, code: str) -> None:
    ast.parse(code, page)


@pytest.mark.parametrize(("page", "text"), [pytest.param(*block, id=block[0]) for block in blocks("toml")])
def test_settings_files_are_accepted(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``penstock.toml`` that a page shows is a valid one."""
    tomllib.loads(text)
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    monkeypatch.setenv("PENSTOCK_CONFIG", str(path))
    assert Settings.load()


def test_commands_that_pages_name_exist() -> None:
    """``penstock job prune`` in prose, ``$ penstock run …`` in a block: the command is there."""
    import click

    from penstock_cli.main import cli

    missing = set()
    for page in PAGES:
        text = page.read_text()
        typed = "".join(code for language, code in BLOCK.findall(text) if language in ("sh", "console"))
        named = re.findall(r"`penstock ([a-z][a-z |-]*)", BLOCK.sub("", text))
        for line in named + re.findall(r"^(?:\$ )?penstock ([a-z][a-z |-]*)", typed, re.MULTILINE):
            command: click.Command | None = cli
            for word in line.split():
                if not isinstance(command, click.Group):
                    break
                command = command.get_command(click.Context(command), word.split("|")[0])
                if command is None:
                    missing.add(f"{page.relative_to(ROOT)}: penstock {line.strip()}")
                    break
    assert missing == set()


def typed() -> Iterator[tuple[str, list[str]]]:
    """Every command line of a shell block, its words, without comments, pipes and variables before it."""
    for language in ("sh", "bash", "console"):
        for page, text in blocks(language):
            for line in text.splitlines():
                if language == "console" and not line.startswith("$ "):
                    continue  # output
                words: list[str] = []
                for word in [*shlex.split(line.removeprefix("$ "), comments=True), "|"]:
                    if word != "|":
                        words.append(word)
                    elif words:
                        yield page, words
                        words = []


PENSTOCK = [
    pytest.param(page, words[1:], id=f"{page}: {' '.join(words)}") for page, words in typed() if words[0] == "penstock"
]
PYTHON = [pytest.param(words[1:], id=" ".join(words)) for _, words in typed() if words[0] == "python"]


@pytest.mark.parametrize(("page", "words"), PENSTOCK)
def test_commands_that_pages_type_can_be_typed(page: str, words: list[str]) -> None:
    """With their options and values; what they do is tested where it is implemented."""
    import click

    from penstock_cli.context import App
    from penstock_cli.main import cli

    command: click.Command = cli
    ctx: click.Context | None = None
    rest = list(words)
    while isinstance(command, click.Group):
        ctx = click.Context(command, ctx, obj=App())
        found = command.get_command(ctx, rest.pop(0))
        assert found is not None, page
        command = found
    command.make_context("penstock", rest, parent=ctx)  # raises for what it does not know


@pytest.mark.parametrize("words", PYTHON)
def test_programs_that_pages_run_exist_with_their_options(words: list[str]) -> None:
    program, *rest = words
    source = (ROOT / program).read_text()
    for module in re.findall(r"^(?:from|import) benchmarks\.(\w+)", source, re.MULTILINE):
        source += (ROOT / "benchmarks" / f"{module}.py").read_text()
    assert [word for word in rest if word.startswith("--") and f'"{word}"' not in source] == []


def test_step_models_page_runs() -> None:
    model, stream = (code for page, code in blocks("python") if page == "docs/step-models.md")
    place: dict[str, Any] = {}
    exec(compile(model, "step-models.md", "exec"), place)
    count = place["Count"]()
    state = count.begin([1, 2])
    first = count.step(state)
    assert first[0] == 1
    assert isinstance(first[1], penstock.Progress)
    count.finish(state, 0)
    assert count.step(state) == {1: 2}
    events = [
        SimpleNamespace(kind="state", data={}),
        SimpleNamespace(kind="progress", data={"index": 0, "progress": 1}),
    ]
    exec(compile(stream, "step-models.md", "exec"), {"job": SimpleNamespace(stream=lambda: events)})


def page_blocks(page: str) -> list[str]:
    return [code for name, code in blocks("python") if name == page]


def test_celery_page_runs() -> None:
    """The model and the task are there, and the canvases are made of them."""
    from penstock.dispatch.tasks.routing import route_by
    from penstock.pipelines.canvas.reading import translate
    from penstock.pipelines.task import Task
    from penstock.settings import Settings
    from penstock.testing import run_model

    place: dict[str, Any] = {"__name__": "shop"}
    exec(compile("\n".join(page_blocks("docs/celery.md")), "celery.md", "exec"), place)
    assert run_model(place["score"], ["four", "seven77"]) == [4.0, 7.0]
    assert [task.task for task in place["signature"].tasks] == ["penstock.score", "shop.report"]
    assert [task.options["penstock"]["tenant"] for task in place["theirs"].tasks] == ["acme", "acme"]
    assert place["report"](4.0) == "scored 4.0"
    assert translate(place["both"], namespace="penstock").inputs == {"score": ["a text", "another"]}
    client = create_autospec(penstock.Client, instance=True)
    place["scores"](client)
    client.run.assert_called_once_with(place["both"], tags={"run": "7"}, result_timeout=30)
    place["report_of"](client)
    client.run.assert_called_with(place["signature"], result_timeout=30)
    route = route_by(Settings(broker_url="redis://localhost:6379/0"))
    score, report = translate(place["signature"], namespace="penstock", route=route).graph.steps
    assert score.model == "score" and report.task == Task(name="shop.report", queue="shop")
    place["app"].close()


def test_pipelines_page_reads_a_workflow(tmp_path: Path) -> None:
    """Each kind of class that the page names is in it; what comes of it is what the page says."""
    place: dict[str, Any] = {"penstock": penstock}
    [code] = [block for block in page_blocks("docs/pipelines.md") if "comfyui" in block]
    exec(compile(code, "pipelines.md", "exec"), place)
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "mask": ["1", 1]}},
        "3": {"class_type": "KSampler", "inputs": {"seed": 7, "positive": ["6", 0], "cfg": 8}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    (tmp_path / "workflow.json").write_text(json.dumps(nodes))
    client = create_autospec(penstock.Client, instance=True)
    place["cat"](client, tmp_path / "workflow.json")
    [(graph, inputs), _] = client.enqueue.call_args
    assert inputs == {"text": "a cat"}
    assert {step.name: step.input for step in graph.steps} == {
        "LoadImage-1": "cat.png",
        "CLIPTextEncode-6": {"text": {"$in": "text"}, "mask": {"$get": [{"$out": "LoadImage-1"}, "mask"]}},
        "KSampler-3": {"seed": 7, "prompt": {"$out": "CLIPTextEncode-6"}},
    }


def test_images_page_runs(tmp_path: Path) -> None:
    from penstock.testing import run_model

    place: dict[str, Any] = {"__name__": "images"}
    exec(compile("\n".join(page_blocks("docs/images-and-files.md")), "images-and-files.md", "exec"), place)
    (tmp_path / "a.raw").write_bytes(b"\x01\x03")
    assert run_model(place["brightness"], [str(tmp_path / "a.raw")]) == [2.0]
    assert run_model(place["count_bytes"], [place["text"]]) == [4]


def test_web_frameworks_page_calls_what_there_is() -> None:
    """Neither framework is installed here; what the page calls of ours exists, with these options."""
    code = "\n".join(page_blocks("docs/web-frameworks.md"))
    for owner, name in re.findall(r"(?:(client|state\.penstock))\.(\w+)\(", code):
        assert callable(getattr(penstock.Client if owner == "client" else penstock.AsyncClient, name))
    for name in re.findall(r"\bpenstock\.([A-Z]\w+)", code):
        assert hasattr(penstock, name)
    client = create_autospec(penstock.Client, instance=True)
    client.run("double", 1, deadline=5.0, result_timeout=5.0)
    client.enqueue("double", 21, lane="background")


def test_troubleshooting_names_errors_that_there_are() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    classes = set(re.findall(r"`([A-Z][a-z]\w+)`", text))
    assert classes and all(hasattr(penstock.errors, name) for name in classes)
    states = set(re.findall(r"a job stays `(\w+)`", text))
    assert states <= {state.value for state in penstock.JobState}
    codes = {kind.code for kind in vars(penstock.errors).values() if hasattr(kind, "code")}
    assert set(re.findall(r"a job failed as `(\w+)`", text)) <= codes


def test_webhooks_page_runs() -> None:
    """The receiver's part verifies what we sign."""
    send, receive = (code for page, code in blocks("python") if page == "docs/webhooks.md")
    exec(compile(send, "webhooks.md", "exec"), {"client": create_autospec(penstock.Client, instance=True)})
    key, body = new_key(), '{"type": "job.succeeded"}'
    place: dict[str, Any] = {"body": body, "headers": Signer([key]).sign("msg_1", body, at=clock.now())}
    assert "whsec_…" in receive
    exec(compile(receive.replace("whsec_…", key), "webhooks.md", "exec"), place)
    assert place["event"]["type"] == "job.succeeded"


def test_extras_that_pages_install_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for page in PAGES
        for found in re.findall(r"'\.\[([\w,]+)\]'", page.read_text())
        for extra in found.split(",")
    }
    assert named and named <= set(extras)


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name.split("-")[0] for path in (ROOT / "docs" / "decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers))
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert path.read_text().startswith(f"# {path.name.split('-')[0]}: "), path.name


def test_makefile_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named <= targets


def test_nobody_is_sent_to_a_foreign_package() -> None:
    """The package index has a penstock that is not ours: an extra is installed from the checkout."""
    code = [path for folder in ("cli", "platform", "workers", "migrations") for path in (ROOT / folder).rglob("*.py")]
    for path in [*PAGES, *code]:
        assert not re.search(r"pip install '?penstock", path.read_text()), path
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"install\([\"'](\w+)[\"']\)", "".join(p.read_text() for p in code)))
    assert {"worker", "dashboard", "all", "postgres", "embedded"} <= named <= set(extras)
