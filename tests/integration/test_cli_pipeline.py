"""Pipelines on the command line, beside a running stack."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from penstock.pipelines.plaingraph import MAX_BYTES
from penstock.store import Store
from penstock_cli import runshow
from penstock_cli.context import App
from tests.fixtures.cli import AT_ONCE_S, Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.worker import wait_for

PIPELINES = '''
import penstock
from my_models import Double, Moody

@penstock.pipeline
def quadruple(x: int, why: str = "because of a reason that is much longer than any narrow terminal has room for"):
    """Doubles twice, and says so at a length that no table on a narrow terminal has any room for."""
    once = Double(x)
    return {"x": Double(once), "more": Double.map([once, once + 1])}

@penstock.pipeline(name="one")
def alone():
    return Double(1)
'''
DEFINED = {"PENSTOCK_MODELS": "pipelines_of_tests"}
X = {"$in": "x"}


def out(name: str) -> dict[str, str]:
    return {"$out": name}


def graph(*steps: dict[str, Any], output: Any, inputs: Any = ("x",), **more: Any) -> dict[str, Any]:
    return {"name": "test", "inputs": list(inputs), "steps": list(steps), "output": output} | more


PLUS = graph(
    {"name": "a", "model": "double", "input": X},
    {"name": "b", "model": "double", "input": out("a")},
    output=[out("a"), out("b")],
)
WAITS = graph(
    {"name": "a", "model": "double", "input": X},
    {"name": "said", "kind": "wait", "signal": "said", "input": out("a")},
    output=[out("a"), out("said")],
)
EACH = graph({"name": "each", "model": "moody", "input": {"$item": 0}, "over": X, "maps": True}, output=out("each"))


@pytest.fixture(scope="module")
def lines(up: Penstock) -> Penstock:
    (up.folder / "pipelines_of_tests.py").write_text(PIPELINES)
    for name, value in (("plus", PLUS), ("each", EACH), ("waits", WAITS)):
        (up.folder / f"{name}.json").write_text(json.dumps(value))
    return up


def submitted(penstock: Penstock, *args: str) -> str:
    ended = penstock("pipeline", "submit", *args)
    assert ended.status == 0, ended.err
    return ended.out.strip()


def on_terminal(penstock: Penstock, columns: int, *args: str) -> tuple[int, str]:
    """Standard output of a command on a terminal of so many columns."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in penstock.env.items() if name not in ("COLUMNS", "LINES")} | DEFINED
    command = [sys.executable, "-m", "penstock_cli", *args]
    done = subprocess.run(
        command, cwd=penstock.folder, env=env, stdin=subprocess.DEVNULL, stdout=writer, timeout=PATIENCE_S
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as terminal:
        return done.returncode, terminal.read1(1 << 20).decode().replace("\r\n", "\n")


# Show -------------------------------------------------------------------------------------------------------------


def test_pipelines_are_listed(lines: Penstock) -> None:
    listed = lines("pipeline", "list", "--json", env=DEFINED)
    assert [(row["name"], row["steps"], row["inputs"]) for row in listed.jsonl()] == [
        ("one", 1, []),
        ("quadruple", 3, ["x", "why"]),
    ]
    assert lines("pipeline", "list", "-q", env=DEFINED).out == "one\nquadruple\n"
    assert "no pipelines" in lines("pipeline", "list").err
    assert lines("job", "list", "--model", "quadruple", env=DEFINED).status == 0, "it is known, and has no run yet"


@pytest.mark.parametrize("columns", [40, 80])
def test_pipelines_fit_the_terminal(lines: Penstock, columns: int) -> None:
    status, text = on_terminal(lines, columns, "pipeline", "list")
    assert status == 0 and max(map(len, text.splitlines())) <= columns
    assert text.splitlines()[0].split()[0] == "NAME" and "quadruple" in text
    status, text = on_terminal(lines, columns, "pipeline", "show", "quadruple")
    assert status == 0 and max(map(len, text.splitlines())) <= columns


def test_a_pipeline_is_shown(lines: Penstock) -> None:
    shown = lines("pipeline", "show", "quadruple", env=DEFINED)
    assert shown.out.splitlines()[-4:] == [
        "1  double   = double($x)",
        "2  double-2 = double(double)",
        "   double-3 = double(item) for item in [double, double + 1]",
        '-> {"x": double-2, "more": double-3}',
    ]
    drawn = lines("pipeline", "show", "quadruple", "--mermaid", env=DEFINED).out
    assert drawn.startswith("flowchart TD\n") and "step0 --> step1" in drawn
    assert lines("pipeline", "show", "quadruple", "--mermaid", "--json", env=DEFINED).json() == {"mermaid": drawn}
    unknown = lines("pipeline", "show", "quadrupel", env=DEFINED)
    assert unknown.status == 2 and "did you mean 'quadruple'?" in unknown.err


def test_bounds_are_shown_where_they_are_set(lines: Penstock, gate: Path) -> None:
    """Of the pipeline, of its run, and of each step; and nothing where there are none."""
    module = (
        "import penstock\nfrom my_models import Double, Slow\n\n"
        "@penstock.pipeline(max_parallel=4, budget=100.5)\n"
        "def held(gate: str, xs: list[int]):\n"
        "    return [Slow.using(retry=2)(gate), Double.using(max_parallel=2, timeout=9).map(xs)]\n"
    )
    (lines.folder / "held_pipelines.py").write_text(module)
    env = {"PENSTOCK_MODELS": "held_pipelines"}
    shown = lines("pipeline", "show", "held", env=env).out.splitlines()
    assert "bounds  at most 4 steps at a time, 100.5 device seconds" in shown
    assert "1  slow   = slow($gate) using retry=2" in shown
    assert "   double = double(item) for item in $xs using max_parallel=2, timeout=9" in shown
    assert "bounds" not in lines("pipeline", "show", "quadruple", env=DEFINED).out

    given = json.dumps({"gate": str(gate), "xs": [1, 2, 3]})
    id = lines("submit", "held", given, "--max-parallel", "3", "--json", env=env).json()["id"]
    text = lines("job", "get", id).out
    assert re.search(r"in flight +at most 3", text) and re.search(r"budget +100.50 s", text)
    assert "slow (retry=2)" in text and "double@2 (max_parallel=2, timeout=9)" in text
    told = lines("job", "get", id, "--json").json()
    assert (told["max_parallel"], told["budget_s"]) == (3, 100.5)
    assert {step["step"]: step["limits"] for step in told["steps"]} == {
        "slow": {"retry": 2}, "double": {"max_parallel": 2, "timeout": 9},
    }  # fmt: skip
    gate.touch()
    assert lines("job", "watch", id).status == 0


def test_what_is_shown_as_json_can_be_submitted(lines: Penstock) -> None:
    given = lines("pipeline", "show", "quadruple", "--json", env=DEFINED)
    ended = lines("pipeline", "submit", "-", '{"x": 3, "why": ""}', input=given.out)
    assert ended.status == 0, ended.err
    assert lines("job", "wait", ended.out.strip()).json() == {"x": 12, "more": [12, 14]}


def test_the_schema_is_that_of_all_graphs(lines: Penstock) -> None:
    assert lines("pipeline", "show", "--schema").json()["$defs"]["Step"]["required"] == ["name", "input"]
    for args in ((), ("one", "--schema"), ("--schema", "--mermaid")):
        assert lines("pipeline", "show", *args).status == 2


# Submit -----------------------------------------------------------------------------------------------------------


def test_a_graph_is_run(lines: Penstock) -> None:
    (lines.folder / "in.json").write_text('{"x": 5}')
    for args in (("plus.json", '{"x": 5}'), ("plus.json", "@in.json")):
        assert lines("job", "wait", submitted(lines, *args)).json() == [10, 20]
    told = lines("pipeline", "submit", "plus.json", "-", "--json", "--tag", "g=1", input='{"x": 1}').json()
    assert told["model"] == "test" and told["status"] in ("running", "succeeded"), "two steps may be done by then"
    assert lines("job", "list", "--tag", "g=1", "-q").out.split() == [told["id"]]
    assert lines("job", "list", "--tag", "g=1").out.split()[-1] == "-", "its steps have attempts"
    assert lines("job", "wait", told["id"]).json() == [2, 4]


def test_a_workflow_of_an_editor_is_run(lines: Penstock) -> None:
    workflow = {
        "1": {"class_type": "Number", "inputs": {"value": 4}},
        "2": {"class_type": "Twice", "inputs": {"x": ["1", 0]}},
    }
    classes = {"Number": {"inputs": "value"}, "Twice": {"model": "double", "inputs": "x", "output": True}}
    for name, value in (("workflow", workflow), ("classes", classes), ("none", []), ("other", {"Number": "double"})):
        (lines.folder / f"{name}.json").write_text(json.dumps(value))
    assert lines("job", "wait", submitted(lines, "--comfyui", "classes.json", "workflow.json")).json() == 8
    for given, words in (
        ("other", "'Twice', for which there is no model"),
        ("none", "are an object"),
        ("no", "cannot read"),
    ):
        ended = lines("pipeline", "submit", "--comfyui", f"{given}.json", "workflow.json")
        assert (ended.status, ended.out) == (2, "") and words in ended.err
    assert lines("pipeline", "submit", "--comfyui", "-", "-").status == 2


def test_who_submits_a_graph_that_nobody_serves_is_told(lines: Penstock) -> None:
    late = graph({"name": "a", "model": "double@7", "input": X}, {"name": "b", "model": "double", "input": X}, output=1)
    ended = lines("pipeline", "submit", "-", '{"x": 1}', input=json.dumps(late))
    assert ended.status == 0, ended.err
    words = ended.err.replace("\n  ", " ")
    assert words.count("no worker serves 'double@7' now") == 1 and "serves 'double' now" not in words
    assert lines("job", "cancel", ended.out.strip()).status == 0
    assert "no worker" not in lines("pipeline", "submit", "plus.json", '{"x": 1}').err


def test_a_pipeline_is_run_by_its_name(lines: Penstock) -> None:
    ended = lines("run", "one", "{}", env=DEFINED)
    assert (ended.status, ended.out, ended.err) == (0, "2\n", ""), "nobody misses a worker for it"


def test_a_run_is_told_what_it_waits_for_and_forked(lines: Penstock) -> None:
    run = submitted(lines, "waits.json", '{"x": 2}')
    refused = lines("job", "signal", run, "sayd", "1")
    assert refused.status != 0 and "did you mean 'said'?" in refused.err
    told = lines("job", "signal", run, "said", '{"by": "ann"}', "--json")
    assert told.json() == {"id": run, "signal": "said"}
    assert lines("job", "wait", run).json() == [4, {"by": "ann"}]
    forked = lines("job", "fork", run, "--input", "x=5").out.strip()
    assert lines("job", "signal", forked, "said").err == f"run {forked} was sent the signal 'said'\n"
    assert lines("job", "wait", forked).json() == [10, None]
    refused = submitted(lines, "waits.json", '{"x": 1}')
    told = lines("job", "signal", refused, "said", "no").err
    assert told == f"run {refused} was sent the signal 'said' with \"no\"\n"
    once = lines("job", "fork", run, "--from", "said").out.strip()
    told = lines("job", "get", once).out
    assert re.search(r"taken over +1 of 2 steps\n", told) and re.search(r"a +- +taken over +- +- ", told)
    again = lines("job", "fork", run, "--from", "b")
    assert again.status != 0 and "has no step 'b'" in again.err
    assert "NAME=VALUE" in lines("job", "fork", run, "--input", "x").err


HOSTILE = {
    "no file": (None, "cannot read"),
    "no JSON": ("steps:", "no JSON"),
    "a circle": (graph({"name": "a", "model": "double", "input": out("a")}, output=1), "wait for each other"),
    "a step that is not there": (graph(output=out("b")), "which is not there"),
    "an unknown model": (graph({"name": "a", "model": "dubble", "input": X}, output=1), "did you mean 'double'?"),
    "a function": (graph({"name": "a", "function": "os:system", "input": X}, output=1), "unknown field `function`"),
    "an unknown word": (graph(output={"$import": "os"}), "no expression begins with"),
    "a wrong type": (graph(output=1, inputs=[7]), "Expected `str`"),
    "a giant literal": (graph(output={"$lit": "x" * MAX_BYTES}), "the limit is"),
    "a million nodes": (" " * (MAX_BYTES + 1), "the limit is"),
    "nested deeply": ("[" * 100_000, "nested too deeply"),
    "inputs that are missing": (PLUS, "given no 'x'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_graph_that_cannot_be_run_is_refused_at_once(lines: Penstock, name: str) -> None:
    value, words = HOSTILE[name]
    path = lines.folder / f"hostile-{name.replace(' ', '-')}.json"
    if value is not None:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    ended = lines("pipeline", "submit", path.name, "{}" if name.startswith("inputs") else '{"x": 1}')
    assert (ended.status, ended.out) == (2, "") and words in ended.err and "fix" in ended.err
    assert ended.took_s < AT_ONCE_S


def test_never_more_is_read_than_a_graph_may_have(lines: Penstock) -> None:
    ended = lines("pipeline", "submit", "/dev/zero")
    assert ended.status == 2 and "the limit is" in ended.err
    folder = lines("pipeline", "submit", ".")
    assert folder.status == 2 and "cannot read" in folder.err
    both = lines("pipeline", "submit", "-", "-")
    assert both.status == 2 and "Only one of" in both.err


# Follow -----------------------------------------------------------------------------------------------------------


def test_a_run_has_steps(lines: Penstock) -> None:
    id = submitted(lines, "plus.json", '{"x": 5}')
    lines("job", "wait", id)
    run = lines("job", "get", id, "--json").json()
    assert (run["id"], run["status"], run["output"], run["failed"]) == (id, "succeeded", [10, 20], [])
    assert run["critical_path"] == ["a", "b"]
    for step in run["steps"]:
        assert step["status"] == "succeeded" and step["critical"] and step["elements"] is None
        assert step["wait_s"] >= 0 and step["run_s"] > 0 and step["batch_size"] >= 1
        assert lines("job", "get", step["id"], "--json").json()["step"] == step["step"]
    shown = lines("job", "get", id).out
    header = next(line for line in shown.splitlines() if line.startswith("STEP"))
    assert header.split() == ["STEP", "DONE", "STATUS", "WAIT", "RUN", "BATCH", "*", "CALLS"]
    assert f"of run {id}" in lines("job", "get", run["steps"][0]["id"]).out


def test_a_run_has_bounds_and_says_what_it_took(lines: Penstock) -> None:
    id = submitted(lines, "plus.json", '{"x": 5}', "--max-parallel", "1", "--budget", "1h")
    lines("job", "wait", id)
    run = lines("job", "get", id, "--json").json()
    assert (run["status"], run["max_parallel"], run["budget_s"]) == ("succeeded", 1, 3600.0)
    assert run["cost"].keys() == {"device_s", "by_model", "queue_s", "run_s", "total_s", "steps", "taken_over"}
    assert run["cost"]["by_model"] == {"double": run["cost"]["device_s"]} and run["cost"]["device_s"] > 0
    assert sum(step["device_s"] for step in run["steps"]) == pytest.approx(run["cost"]["device_s"])
    shown = lines("job", "get", id).out
    assert "device time" in shown and "in flight     at most 1" in shown
    over = submitted(lines, "plus.json", '{"x": 5}', "--budget", "0")
    assert lines("job", "wait", over).status == 1
    assert "[over_budget]" in lines("job", "get", over).out
    refused = lines("submit", "double", "1", "--budget", "1")
    assert refused.status == 2 and "only a run of a pipeline" in refused.err


@pytest.mark.parametrize("size", [0, 1, 300])
def test_a_map_is_counts(lines: Penstock, size: int) -> None:
    id = submitted(lines, "each.json", json.dumps({"x": ["t"] * size}))
    lines("job", "wait", id)
    [step] = lines("job", "get", id, "--json").json()["steps"]
    counts = {"succeeded": size} if size else {}
    assert (step["elements"]["size"], step["elements"]["counts"], step["id"]) == (size, counts, None)
    assert f"{size}/{size}" in lines("job", "get", id).out
    listed = lines("job", "list", "--run", id, "--json", "--limit", "1000").jsonl()
    assert {job["step"] for job in listed} == {f"each[{n}]" for n in range(size)}
    assert {job["run"] for job in listed} <= {id}


def test_what_failed(lines: Penstock) -> None:
    id = submitted(lines, "each.json", '{"x": ["a", "bad"]}')
    assert lines("job", "watch", id).status == 1
    run = lines("job", "get", id, "--failed", "--json").json()
    assert [step["step"] for step in run["steps"]] == ["each"]
    [failed] = run["failed"]
    assert failed["step"] == "each[1]" and "no mood for this item" in failed["error"]["message"]
    shown = lines("job", "get", id, "--failed")
    assert shown.out.splitlines()[0].split() == ["STEP", "JOB", "ERROR"] and "no mood for this item" in shown.out
    assert lines("job", "list", "--run", id, "--status", "failed", "-q").out.split() == [failed["id"]]
    good = submitted(lines, "plus.json", '{"x": 1}')
    lines("job", "wait", good)
    assert lines("job", "get", good, "--failed", "--json").json()["steps"] == []
    assert "no step has failed" in lines("job", "get", good, "--failed").err


def test_on_a_narrow_terminal_an_error_has_room_beside_the_beginning_of_its_jobs_id(lines: Penstock) -> None:
    id = submitted(lines, "each.json", '{"x": ["bad", "a"]}')
    lines("job", "wait", id)
    [failed] = lines("job", "get", id, "--failed", "--json").json()["failed"]
    _, shown = on_terminal(lines, 70, "job", "get", id, "--failed")
    [line] = [line for line in shown.splitlines() if line.startswith("each[0]")]
    _, job, *words = line.split()
    assert failed["id"].startswith(job) and job != failed["id"]
    assert " ".join(words).startswith("ValueError: no mood for this")
    assert lines("job", "get", job, "--json").json()["id"] == failed["id"]


def test_who_waits_is_told_the_step_that_failed(lines: Penstock) -> None:
    id = submitted(lines, "each.json", '{"x": ["bad"]}')
    told = f"job {id}: failed in step 'each[0]': ValueError: no mood for this item"
    assert told in lines("job", "wait", id).err


def test_a_step_is_no_pipeline_by_another_name(lines: Penstock) -> None:
    """``onee`` is near to the pipeline ``one``, which a step cannot call."""
    (lines.folder / "near.json").write_text(json.dumps(graph({"name": "a", "model": "onee", "input": 1}, output=1)))
    refused = lines("pipeline", "submit", "near.json", '{"x": 1}', env=DEFINED)
    assert "no model is named 'onee'" in refused.err and "'one'" not in refused.err


def test_a_run_goes_on_from_where_it_failed(lines: Penstock) -> None:
    id = submitted(lines, "each.json", '{"x": ["a", "bad"]}')
    lines("job", "wait", id)
    for args in ((id,), ("--model", "test", "--status", "failed", "--yes")):
        again = lines("job", "retry", *args)
        assert again.status == 0, again.err
        assert lines("job", "wait", id).status == 1, "it is bad again"
        run = lines("job", "get", id, "--json").json()
        # By a filter perhaps more than once: it fails while the failed ones are still walked through.
        assert run["generation"] == 1 if args == (id,) else run["generation"] > 1
        assert run["steps"][0]["elements"]["counts"] == {"succeeded": 1, "failed": 1}


def test_a_step_is_steered_with_its_run(lines: Penstock, gate: Path) -> None:
    slow = graph({"name": "wait", "model": "slow", "input": X}, output=out("wait"))
    (lines.folder / "steered.json").write_text(json.dumps(slow))
    id = submitted(lines, "steered.json", json.dumps({"x": str(gate)}))
    step = lines("job", "get", id, "--json").json()["steps"][0]["id"]
    refused = lines("job", "cancel", step)
    assert refused.status == 2 and f"use the run's id: {id}" in refused.err
    assert lines("job", "cancel", id).out == f"{id}  cancelled\n"
    too_soon = lines("job", "retry", id)
    assert too_soon.status in (0, 2) and (too_soon.status == 0 or "try again in a moment" in too_soon.err)


def test_a_run_that_has_succeeded_again_by_the_time_it_is_told_was_retried(
    lines: Penstock, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = graph({"name": "wait", "model": "slow", "input": X}, output=out("wait"))
    (lines.folder / "again.json").write_text(json.dumps(slow))
    id = submitted(lines, "again.json", json.dumps({"x": str(gate)}))
    assert lines("job", "cancel", id).status == 0
    gate.touch()
    retry = Store.retry

    def until_it_ends(store: Store, id: str, **options: Any) -> Any:
        retry(store, id, **options)
        return wait_for(lambda: (job := store.get(id)).state.is_terminal and job, what="the run to end again")

    def tried() -> Any:
        again = lines("job", "retry", id)
        return "try again in a moment" not in again.err and again

    monkeypatch.setattr(Store, "retry", until_it_ends)
    again = wait_for(tried, what="the cancelled step to stop")
    assert (again.status, again.out) == (0, f"{id}  succeeded\n"), again.err


def test_what_is_for_runs_names_the_run_of_a_step(lines: Penstock) -> None:
    run = submitted(lines, "waits.json", '{"x": 2}')
    listed = lambda: lines("job", "list", "--run", run, "--status", "running", "--json").jsonl()  # noqa: E731
    [row] = wait_for(listed, what="the run to wait")
    assert re.search(r"said +- +waiting +[\d.]+ m?s +- .* wait for said\n", lines("job", "get", run).out)
    assert row["step"] == "said" and row["available_at"] is None, "it has no end"
    step = row["id"]
    for args in (("retry", step), ("cancel", step), ("fork", step), ("signal", step, "said")):
        refused = lines("job", *args)
        assert refused.status == 2 and f"use the run's id: {run}" in refused.err, (args, refused.err)
    shown = lines("job", "get", step)
    assert not any(line.startswith("model") for line in shown.out.splitlines()) and "no worker" not in shown.err
    assert lines("job", "signal", run, "said").status == 0
    lines("job", "wait", run)
    [ended] = [id for id in lines("job", "list", "--run", run, "-q").out.split() if id != step]
    refused = lines("job", "retry", ended)
    assert refused.status == 2 and f"use the run's id: {run}" in refused.err


def test_a_step_that_failed_is_run_again_with_its_run(lines: Penstock) -> None:
    run = submitted(lines, "each.json", '{"x": ["bad"]}')
    lines("job", "wait", run)
    [step] = lines("job", "list", "--run", run, "-q").out.split()
    assert f"penstock job retry {run}" in lines("job", "get", step).err


def test_a_plain_job_has_no_steps(lines: Penstock) -> None:
    id = lines("run", "double", "1", "--json").json()["id"]
    for args in (("get", id, "--failed"), ("watch", id, "--failed"), ("list", "--run", id)):
        ended = lines("job", *args)
        assert ended.status == 2 and "is none" in ended.err
    for args in (("fork", id), ("signal", id, "said")):
        ended = lines("job", *args)
        assert ended.status == 2 and "plain job, and no run" in ended.err


def test_watch_tells_the_steps_line_by_line_where_nobody_looks(lines: Penstock, gate: Path) -> None:
    slow = graph(
        {"name": "wait", "model": "slow", "input": X},
        {"name": "shout", "model": "moody", "input": out("wait")},
        output=out("shout"),
    )
    (lines.folder / "slow.json").write_text(json.dumps(slow))
    id = submitted(lines, "slow.json", json.dumps({"x": str(gate)}))
    running = lines.start("job", "watch", id)
    try:
        running.says("wait  running")
        gate.touch()
        assert running.wait(PATIENCE_S) == 0
    finally:
        running.close()
    assert "\x1b" not in running.text
    assert re.search(r"shout +- +succeeded", running.text), running.text


def test_watch_bears_with_a_database_that_goes_away(
    penstock: Penstock, postgres_server: PostgresServer, postgres_url: str, broker_url: str
) -> None:
    penstock.env |= {"PENSTOCK_DATABASE_URL": postgres_url, "PENSTOCK_BROKER_URL": broker_url}
    penstock.env["PENSTOCK_MODELS"] = "my_models"
    (penstock.folder / "plus.json").write_text(json.dumps(PLUS))
    id = submitted(penstock, "plus.json", '{"x": 5}')
    running = penstock.start("job", "watch", id)
    try:
        running.says("a  ")
        postgres_server.stop()
        running.says("trying again")
        postgres_server.start()
        assert penstock("job", "cancel", id).status == 0
        assert running.wait(PATIENCE_S) == 1
    finally:
        running.close()
    assert "cancelled" in running.text and "Traceback" not in running.text


def test_watch_says_who_is_missing_once_the_database_is_back(
    penstock: Penstock,
    postgres_server: PostgresServer,
    postgres_url: str,
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes away behind the steps' first lines."""
    penstock.env |= {"PENSTOCK_DATABASE_URL": postgres_url, "PENSTOCK_BROKER_URL": broker_url}
    penstock.env["PENSTOCK_MODELS"] = "my_models"
    (penstock.folder / "plus.json").write_text(json.dumps(PLUS))
    id = submitted(penstock, "plus.json", '{"x": 5}')
    asked: list[str] = []
    original = runshow.warn_if_unserved

    def warn(app: App, model: str) -> None:
        asked.append(model)
        if len(asked) > 1:
            original(app, model)
            app.client.get(id).cancel()
            return
        postgres_server.stop()
        try:
            original(app, model)
        finally:
            postgres_server.start()

    monkeypatch.setattr(runshow, "warn_if_unserved", warn)
    ended = penstock("job", "watch", id)
    assert (ended.status, asked) == (1, ["double", "double"]), ended.err
    assert ended.err.index("trying again") < ended.err.index("no worker serves 'double'")
    assert "cancelled" in ended.out


def test_watch_json_is_a_line_for_each_change_and_the_run_last(lines: Penstock) -> None:
    id = submitted(lines, "plus.json", '{"x": 5}')
    *changes, run = lines("job", "watch", id, "--json").jsonl()
    assert {change["run"] for change in changes} == {id}
    assert changes[-1]["status"] == "succeeded" and {change["step"] for change in changes} == {"a", "b"}
    assert (run["id"], run["critical_path"]) == (id, ["a", "b"])


def test_watch_draws_on_a_terminal(lines: Penstock, gate: Path) -> None:
    slow = graph({"name": "wait", "model": "slow", "input": X}, output=out("wait"))
    (lines.folder / "drawn.json").write_text(json.dumps(slow))
    id = submitted(lines, "drawn.json", json.dumps({"x": str(gate)}))
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    env = {name: value for name, value in lines.env.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "penstock_cli", "job", "watch", id]
    watching = subprocess.Popen(
        command, cwd=lines.folder, env=env, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    text = ""
    with os.fdopen(reader, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(65536):
                text += piece.decode()
                if re.search(r"wait +- +running", text):
                    gate.touch()
        except OSError:  # the other side is closed
            pass
    assert watching.wait(PATIENCE_S) == 0, text
    assert re.search(r"wait +- +running", text) and re.search(r"wait +- +succeeded", text)
    assert "\x1b[" in text, "it was drawn again"
