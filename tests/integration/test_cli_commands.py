"""The commands, beside a running stack."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import wait_for

# Jobs -------------------------------------------------------------------------------------------------------------


def test_run_prints_the_output_alone(up: Penstock) -> None:
    ended = up("run", "double", "21")
    assert (ended.status, ended.out, ended.err) == (0, "42\n", "")


def test_run_takes_text_files_and_standard_input(up: Penstock) -> None:
    (up.folder / "in.txt").write_text("from a file\n")
    assert up("run", "moody", "plain text").json() == "PLAIN TEXT"
    assert up("run", "moody", "@in.txt").json() == "FROM A FILE"
    assert up("run", "moody", "-", input='"piped"').json() == "PIPED"
    assert up("run", "moody", "-", "--raw", input="21\n").out == "21\n"


def test_run_json_is_the_whole_job(up: Penstock) -> None:
    job = up("run", "double", "4", "--json", "--lane", "background", "--tag", "a=b", "--priority", "3").json()
    assert (job["status"], job["output"], job["model"], job["version"]) == ("succeeded", 8, "double", "2")
    assert (job["lane"], job["tags"], job["priority"], job["attempts"]) == ("background", {"a": "b"}, 3, 1)
    assert job["created_at"] <= job["started_at"] <= job["completed_at"]
    assert job["metrics"]["total_time"] >= job["metrics"]["predict_time"] >= 0
    assert job["batch_size"] >= 1


def test_submit_wait_get(up: Penstock) -> None:
    id = up("submit", "double", "5").out.strip()
    assert up("job", "wait", id).out == "10\n"
    shown = up("job", "get", id)
    assert "succeeded" in shown.out and "10" in shown.out
    assert up("job", "get", id, "--json").json()["output"] == 10


def test_wait_for_several_reads_ids_from_standard_input(up: Penstock) -> None:
    ids = [up("submit", "double", str(number), "-q").out.strip() for number in (1, 2)]
    ended = up("job", "wait", "-", input="\n".join(ids) + "\n")
    assert sorted(ended.out.splitlines()) == sorted([f"{ids[0]}  2", f"{ids[1]}  4"])


def test_a_failed_job_in_the_eyes_of_each_command(up: Penstock) -> None:
    id = up("submit", "moody", "bad").out.strip()
    waited = up("job", "wait", id)
    assert (waited.status, waited.out) == (1, "")
    assert "no mood for this item" in waited.err
    assert up("job", "watch", id).status == 1
    assert up("job", "get", id).status == 0
    error = up("job", "get", id, "--json").json()["error"]
    assert error["code"] == "model_raised" and "no mood" in error["message"]
    ran = up("run", "moody", "bad", "--json")
    assert ran.status == 1 and ran.json()["status"] == "failed"


def test_retry_runs_it_again_under_its_id(up: Penstock) -> None:
    id = up("run", "moody", "bad", "--json").json()["id"]
    assert up("job", "retry", id).out.startswith(id)
    assert up("job", "wait", id).status == 1
    assert up("job", "get", id, "--json").json()["attempts"] == 2


def test_cancel_a_delayed_job(up: Penstock) -> None:
    id = up("submit", "double", "1", "--delay", "1h").out.strip()
    assert up("job", "cancel", id).out == f"{id}  cancelled\n"
    assert up("job", "cancel", id).out == f"{id}  cancelled\n", "again is the same"
    waited = up("job", "wait", id)
    assert waited.status == 1 and "cancelled" in waited.err


def test_a_deadline_in_the_past_expires_the_job(up: Penstock) -> None:
    ended = up("run", "double", "1", "--deadline", "0")
    assert ended.status == 1 and "expired" in ended.err


def test_stream_is_json_lines_and_goes_on_behind_a_cursor(up: Penstock) -> None:
    id = up("run", "double", "1", "--json").json()["id"]
    events = up("job", "stream", id).jsonl()
    assert (events[0]["state"], events[-1]["state"]) == ("accepted", "succeeded")
    rest = up("job", "stream", id, "--after", events[0]["cursor"]).jsonl()
    assert rest == events[1:]


def test_watch_tells_the_states_line_by_line_where_nobody_looks(up: Penstock) -> None:
    id = up("submit", "double", "1").out.strip()
    ended = up("job", "watch", id)
    assert ended.status == 0 and "succeeded" in ended.err and "\x1b" not in ended.err + ended.out


def test_list_filters_and_pages(up: Penstock) -> None:
    ids = [up("submit", "double", str(n), "--tag", "list=yes", "--tenant", "lister").out.strip() for n in range(3)]
    up("job", "wait", *ids)
    newest_first = ids[::-1]
    listed = up("job", "list", "--tag", "list=yes", "-q")
    assert listed.out.split() == newest_first
    assert up("job", "list", "--tag", "list=no").out == ""
    first = up("job", "list", "--tenant", "lister", "--limit", "2", "--json").jsonl()
    assert [job["id"] for job in first] == newest_first[:2]
    rest = up("job", "list", "--tenant", "lister", "--before", first[-1]["id"], "--json").jsonl()
    assert [job["id"] for job in rest] == newest_first[2:]
    table = up("job", "list", "--tag", "list", "--status", "succeeded").out.splitlines()
    assert table[0].split()[:2] == ["ID", "MODEL"] and len(table) == 4


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_shows_what_fits_and_takes_what_it_showed(up: Penstock, columns: int) -> None:
    for number in ("21", "22"):
        up("run", "double", number)
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in up.env.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "penstock_cli", "job", "list"]
    done = subprocess.run(command, cwd=up.folder, env=env, stdin=subprocess.DEVNULL, stdout=writer, timeout=60)
    os.close(writer)
    with os.fdopen(reader, "rb") as terminal:
        lines = terminal.read1(65536).decode().splitlines()
    assert done.returncode == 0
    header, *rows = lines
    assert header.split()[0] == "ID" and "AGE" in header.split() and "STATUS" in header.split()
    assert ("TOTAL" in header.split()) == (columns == 80)
    assert rows and max(map(len, lines)) <= columns
    short = rows[0].split()[0]
    found = up("job", "get", short, "--json").json()
    assert len(short) < 36 and found["id"].startswith(short)
    assert up("job", "wait", short).status in (0, 1)
    assert up("job", "cancel", short).out.split()[0] == found["id"]
    ambiguous = up("job", "get", short[:6])
    assert ambiguous.status == 2 and "write more" in ambiguous.err
    nobody = up("job", "get", "ffffffff-ffff")
    assert nobody.status == 2 and "begins with" in nobody.err


def test_bulk_verbs(up: Penstock) -> None:
    ids = [up("submit", "double", "1", "--delay", "1h", "--tag", "bulk=1").out.strip() for _ in range(4)]
    assert up("job", "cancel").status == 2 and up("job", "cancel", ids[0], "--tag", "bulk").status == 2
    asked = up("job", "cancel", "--tag", "bulk=1")
    assert asked.status == 2 and "--yes" in asked.err
    named = up("job", "cancel", ids[0], "nobody", ids[1])
    assert named.status == 2 and "'nobody'" in named.err, "the others go on"
    assert named.out.splitlines() == [f"{id}  cancelled" for id in ids[:2]]
    assert up("job", "cancel", "--tag", "bulk=1", "--model", "double", "--yes", "--json").json() == {"cancelled": 2}
    again = up("job", "cancel", "--tag", "bulk=1", "--yes")
    assert (again.status, again.out, again.err) == (0, "0\n", "0 jobs cancelled\n")
    run = up("job", "retry", "--tag", "bulk=1", "--status", "cancelled", "--yes")
    assert (run.out, run.err) == ("4\n", "4 jobs to run again\n")
    up("job", "wait", *ids)
    succeeded = up("job", "retry", ids[0])
    assert succeeded.status == 2 and "succeeded" in succeeded.err


def test_prune_removes_what_ended_before(up: Penstock) -> None:
    id = up("run", "double", "1", "--json").json()["id"]
    assert up("job", "prune", "--older-than", "1h").status == 0
    assert up("job", "get", id).status == 0
    assert int(up("job", "prune", "--older-than", "0").out) >= 1
    assert up("job", "get", id).status == 2


def test_the_same_key_is_the_same_job(up: Penstock) -> None:
    first, second = (up("submit", "double", "1", "--idempotency-key", "same").out for _ in range(2))
    assert first == second


def test_ctrl_c_leaves_the_job_alone(up: Penstock, gate: Path) -> None:
    running = up.start("run", "slow", str(gate))
    try:
        listed = ""
        while not listed:
            listed = up("job", "list", "--model", "slow", "--status", "running", "-q").out.strip()
        assert running.stop(signal.SIGINT) == 130
        assert f"penstock job wait {listed}" in running.text
        gate.touch()
        assert up("job", "wait", listed, "--timeout", "30").json() == str(gate)
    finally:
        running.close()


def test_a_canvas_in_a_program_without_a_celery_app(up: Penstock) -> None:
    program = "from celery import chain; from my_models import Double; {}print(chain(Double.s(21), Double.s()){})"
    foreign = "import celery; own = celery.Celery('own', broker='memory://'); "
    for setup, ends in (("", "apply_async().get(timeout=60)"), (foreign, "app.main")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(setup, f".{ends}")],
            capture_output=True,
            text=True,
            cwd=up.folder,
            env=up.env,
            timeout=PATIENCE_S,
        )
        assert done.stdout == ("own\n" if setup else "84\n"), done.stderr


# Many jobs --------------------------------------------------------------------------------------------------------


def test_batch_run(up: Penstock) -> None:
    requests = [{"custom_id": f"r{n}", "body": "bad" if n == 3 else f"text {n}"} for n in range(50)]
    lines = [json.dumps(request) for request in requests]
    lines[10] = "{not json"
    lines[11] = '"bare"'
    lines[12] = ""
    (up.folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    ended = up("batch", "run", "-i", "in.jsonl", "-o", "out.jsonl", "--model", "moody", "--json")
    assert ended.status == 1, ended.err
    summary = ended.json()
    assert (summary["jobs"], summary["failed"]) == (49, 2)
    out = {line["custom_id"]: line for line in map(json.loads, (up.folder / "out.jsonl").read_text().splitlines())}
    assert len(out) == 49
    assert out["r7"]["response"]["body"] == "TEXT 7" and out["r7"]["error"] is None
    assert out["r3"]["response"] is None and out["r3"]["error"]["code"] == "model_raised"
    assert out["line-11"]["error"]["code"] == "invalid_line" and "line 11" in out["line-11"]["error"]["message"]
    assert out["line-12"]["response"]["body"] == "BARE"

    again = up("batch", "run", "-i", "in.jsonl", "-o", "out.jsonl", "--model", "moody")
    assert again.status == 2 and "--resume" in again.err
    # As after a crash: one result is missing, another is cut off in the middle.
    kept = (up.folder / "out.jsonl").read_text().splitlines()
    missing = json.loads(kept.pop())["custom_id"]
    (up.folder / "out.jsonl").write_text("\n".join(kept) + '\n{"custom_id": "r7", "respo')
    resumed = up("batch", "run", "-i", "in.jsonl", "-o", "out.jsonl", "--model", "moody", "--resume", "--json")
    assert resumed.json()["skipped"] >= 45
    lines_out = [json.loads(line) for line in (up.folder / "out.jsonl").read_text().splitlines()]
    assert len(lines_out) == len({line["custom_id"] for line in lines_out}) == 49
    assert missing in {line["custom_id"] for line in lines_out}


def test_batch_run_in_a_pipe(up: Penstock) -> None:
    ended = up("batch", "run", "-i", "-", "--model", "double", input="1\n2\n3\n")
    assert ended.status == 0, ended.err
    assert {line["custom_id"]: line["response"]["body"] for line in ended.jsonl()} == {
        "line-1": 2,
        "line-2": 4,
        "line-3": 6,
    }
    assert "3 jobs in" in ended.err


def test_a_line_that_the_producer_refuses_fails_alone(up: Penstock) -> None:
    env = {"PENSTOCK_MODELS": "my_models"}
    ended = up("batch", "run", "-i", "-", "--model", "double", input='1\n"two"\n3\n', env=env)
    assert ended.status == 1
    by_id = {line["custom_id"]: line for line in ended.jsonl()}
    assert by_id["line-2"]["error"]["code"] == "invalid_input" and by_id["line-2"]["id"] is None
    assert by_id["line-2"]["error"]["message"].startswith("line 2: the input does not fit")
    assert by_id["line-3"]["response"]["body"] == 6


def test_submitting_imports_no_module_of_a_model_that_a_worker_announced(up: Penstock) -> None:
    (up.folder / "heavy_models.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\nimport my_models_\n"
    )
    env = {"PENSTOCK_MODELS": "heavy_models", "PYTHONDONTWRITEBYTECODE": "1"}
    assert up("run", "double", "21", env=env).out == "42\n"
    refused = up("submit", "double", '"x"', env=env)
    assert refused.status == 2 and "valid integer" in refused.err
    assert up("job", "list", "--model", "double", "-q", env=env).status == 0
    assert not (up.folder / "imported").exists()
    assert up("submit", "nobody", "1", env=env).status == 2
    assert (up.folder / "imported").exists(), "only to find a model that nobody announced"


def test_a_file_of_odd_lines_runs_under_any_locale_and_loses_nothing_when_resumed(up: Penstock) -> None:
    """Beginning with a mark, in a locale that knows no other letters than ASCII's."""
    good = {"a\u2028b": "x\u2029y", "é\x85": "☕", "😀": "z", "line-9": "nine"}
    lines = [json.dumps({"custom_id": id, "body": text}, ensure_ascii=False).encode() for id, text in good.items()]
    bad = [
        rb'{"custom_id": "\ud800", "body": "x"}',
        b'{"custom_id": "a\xff", "body": "x"}',
        rb'{"custom_id": "half", "body": "\udfff"}',
    ]
    source, target = up.folder / "odd.jsonl", up.folder / "odd.out"
    source.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines, *bad]) + b"\n\n7\n")  # no text: the model refuses it
    for env in (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    ):
        flag = "--resume" if target.exists() else "--overwrite"
        ended = up.process("batch", "run", "-i", "odd.jsonl", "-o", "odd.out", "--model", "moody", flag, env=env)
        assert ended.status == 1, ended.err
        found = [json.loads(line) for line in target.read_bytes().decode().split("\n")[:-1]]
        outputs = {line["custom_id"]: line["response"]["body"] for line in found if line["error"] is None}
        assert outputs == {id: text.upper() for id, text in good.items()}
        faults = {line["custom_id"]: line["error"]["code"] for line in found if line["error"]}
        assert faults == {
            "line-5": "invalid_line",
            "line-6": "invalid_line",
            "half": "not_serializable",
            "line-9": "invalid_line",
        }
        # A killed run leaves a line cut off, in the middle of a letter.
        target.write_bytes(target.read_bytes() + '{"id": "0", "custom_id": "☕'.encode()[:-1])
    ended = up.process("run", "moody", "naïve ☕", "--json", "-q", env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert (ended.status, ended.json()["output"]) == (0, "NAÏVE ☕"), ended.err
    ended = up.process("run", "moody", "-", "-r", input="\ufeffnaïve 😀\r\n", env={"PYTHONIOENCODING": "latin-1"})
    assert ended.out == "NAÏVE 😀\n"


def test_two_lines_of_one_id_are_not_mixed_up(up: Penstock) -> None:
    (up.folder / "twins.jsonl").write_text('{"custom_id": "a", "body": 1}\n{"custom_id": "a", "body": 2}\n')
    for flag in ("--overwrite", "--resume"):
        ended = up("batch", "run", "-i", "twins.jsonl", "-o", "twins.out", "--model", "double", flag)
        assert ended.status == 1, ended.err
        lines = map(json.loads, (up.folder / "twins.out").read_text().splitlines())
        by_id = {line["custom_id"]: line for line in lines}
        assert by_id["a"]["response"]["body"] == 2
        assert "line 1" in by_id["line-2"]["error"]["message"]


def test_more_lines_than_are_kept_in_flight(up: Penstock) -> None:
    ended = up("batch", "run", "-i", "-", "--model", "double", input="\n".join(map(str, range(6000))) + "\n")
    assert ended.status == 0, ended.err
    assert {line["response"]["body"] for line in ended.jsonl()} == set(range(0, 12_000, 2))


def test_head_ends_the_output_quietly(up: Penstock) -> None:
    for n in range(3):
        up("submit", "double", str(n))
    # The pipe is closed before anything is written into it.
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m penstock_cli job list --limit 1000 | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=up.folder,
        env=up.env,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


# Queues and models ------------------------------------------------------------------------------------------------


def test_every_list_follows_one_rule(up: Penstock) -> None:
    """With --json an object a line, with -q what names a row, once, and nothing where there is nothing."""
    up("run", "double", "1", "--webhook", "http://127.0.0.1:9/")
    for command, name in (
        (("job", "list"), "id"),
        (("model", "list"), "name"),
        (("queue", "stats"), "model"),
        (("tenant", "list"), "tenant"),
        (("webhook", "list"), "id"),
    ):
        rows = up(*command, "--json").jsonl()
        assert rows and all(isinstance(row, dict) for row in rows), command
        assert up(*command, "-q").out.splitlines() == list(dict.fromkeys(row[name] for row in rows)), command
        assert up(*command, "--json", "-q").out.startswith("{"), command
    for nothing in (("job", "list", "--tag", "none"), ("webhook", "list", "--state", "gone")):
        assert [up(*nothing, *how).out for how in ((), ("--json",), ("-q",))] == ["", "", ""]


def test_queue_stats(up: Penstock) -> None:
    rows = up("queue", "stats", "--json").jsonl()
    double = {row["lane"]: row for row in rows if row["model"] == "double"}
    assert set(double) == {"interactive", "background"}
    assert (double["interactive"]["workers"], double["interactive"]["loaded"]) == (1, 1)
    assert up("queue", "stats", "--model", "double").out.splitlines()[0].startswith("MODEL")


def test_queue_purge_cancels_what_waits(up: Penstock) -> None:
    ids = [up("submit", "moody", "x", "--delay", "1h", "--lane", "background").out.strip() for _ in range(2)]
    asked = up("queue", "purge", "moody", "--lane", "background")
    assert asked.status == 2 and "--yes" in asked.err
    assert up("queue", "purge", "moody", "--lane", "background", "--yes").out == "2\n"
    assert {up("job", "get", id, "--json").json()["status"] for id in ids} == {"cancelled"}


def test_models(up: Penstock) -> None:
    listed = {model["name"]: model for model in up("model", "list", "--json").jsonl()}
    assert listed["double"]["version"] == "2" and listed["double"]["description"] == "Doubles a number."
    assert len(listed["double"]["workers"]) == 1
    assert [place["state"] for place in listed["double"]["residency"]] == ["loaded"]
    shown = up("model", "show", "double")
    assert '"integer"' in shown.out
    assert up("model", "show", "duble").status == 2
    assert "double" in up("model", "list", "-q").out.split()


def test_a_model_shows_what_was_learned_and_what_it_has_used(up: Penstock) -> None:
    for number in range(3):
        assert up("run", "double", str(number)).status == 0
    assert up("run", "double", "4", "--lane", "background").status == 0
    # Both are told with a heartbeat.
    wait_for(lambda: all(up("model", "show", "double", "--json").json()["device_s"].values()), what="the heartbeat")
    model = up("model", "show", "double", "--json").json()
    (line,) = model["latency"]
    assert line["device"] == "cpu" and line["batches"] >= 4
    assert line["alpha"] >= 0 and line["beta"] > 0 and line["margin"] >= 1
    assert 0 <= line["error_p50"] <= line["error_p99"] and 3 <= line["error_of"] <= line["batches"]
    assert 0 < model["device_s"]["background"] < 10 and 0 < model["device_s"]["interactive"] < 10
    shown = up("model", "show", "double").out
    for words in (
        r"batch time +[\d.e-]+ ms \+ [\d.e-]+ ms per unit of cost on cpu; margin \d\.\d\d; \d+ batches",
        r"prediction error: median [\d.e+]+(%| ms), p99 [\d.e+]+(%| ms) over the last \d+",
        r"device time +interactive \S+ s, background \S+ s since the broker's data began",
    ):
        assert re.search(words, shown), shown


def test_a_model_that_never_ran_shows_so(up: Penstock) -> None:
    (up.folder / "idle_models.py").write_text(
        "from penstock import Model\n"
        "class Idle(Model):\n"
        "    name = 'idle'\n"
        "    def predict(self, batch: list[int]) -> list[int]: return batch\n"
    )
    env = {"PENSTOCK_MODELS": str(up.folder / "idle_models.py")}
    model = up("model", "show", "idle", "--json", env=env).json()
    assert (model["latency"], model["device_s"]) == ([], {"interactive": 0.0, "background": 0.0})
    shown = up("model", "show", "idle", env=env).out
    assert "not measured yet" in shown and "interactive 0 s, background 0 s" in shown


def test_a_model_can_be_shown_without_the_broker(up: Penstock) -> None:
    ended = up("model", "show", "double", "--broker-url", "redis+socket:///nowhere")
    assert ended.status == 0
    assert "device time" in ended.out and "the broker does not answer" in ended.out


# Webhooks ---------------------------------------------------------------------------------------------------------


def test_webhook_listen_receives_verifies_and_ends(up: Penstock) -> None:
    running = up.start("webhook", "listen", "--port", "0", "--count", "1")
    try:
        url = running.says("listening: ").split()[-1]
        id = up("submit", "double", "8", "--webhook", url).out.strip()
        assert running.wait() == 0, running.text
        event = next(json.loads(line) for line in running.lines if line.startswith("{"))
        assert event["type"] == "job.succeeded" and event["data"]["id"] == id
    finally:
        running.close()
    found = [row for row in up("webhook", "list", "--json").jsonl() if row["job_id"] == id]
    assert len(found) == 1
    shown = up("webhook", "show", found[0]["id"], "--json").json()
    assert shown["payload"]["data"]["id"] == id
    assert up("webhook", "replay", found[0]["id"]).status == 0


def test_webhook_verify(up: Penstock) -> None:
    from penstock.clock import now
    from penstock.webhooks.signing import Signer, local_key

    body = '{"type": "job.succeeded"}'
    headers = Signer([local_key(up.home)]).sign("msg_1", body, at=now())
    options = [part for name in ("id", "timestamp", "signature") for part in (f"--{name}", headers[f"webhook-{name}"])]
    assert up("webhook", "verify", "-", *options, input=body).status == 0
    forged = up("webhook", "verify", "-", *options, input=body + " ")
    assert forged.status == 1 and "signature" in forged.err


# Tenants ----------------------------------------------------------------------------------------------------------


def row_of(up: Penstock, tenant: str) -> dict[str, object]:
    rows: list[dict[str, object]] = up("tenant", "list", "--json").jsonl()
    return next((row for row in rows if row["tenant"] == tenant), {})


def test_tenants_are_set_and_listed(up: Penstock) -> None:
    assert up("tenant", "set", "set-me", "--weight", "2.5", "--cap", "3").out == "set-me  weight 2.5  cap 3\n"
    assert up("tenant", "set", "set-me", "--weight", "4").out == "set-me  weight 4  cap 3\n"
    row = row_of(up, "set-me")
    assert (row["weight"], row["cap"], row["queued"], row["running"]) == (4.0, 3, 0, 0)
    assert "set-me" in up("tenant", "list").out and "set-me" in up("tenant", "list", "-q").out.split()
    assert up("tenant", "set", "set-me", "--no-cap", "--json").json() == {
        "tenant": "set-me",
        "weight": 4.0,
        "cap": None,
    }
    assert up("tenant", "set", "set-me", "--reset").out == "set-me  weight 1  no cap\n"
    assert row_of(up, "set-me") == {}
    assert row_of(up, "default")["weight"] == 1.0


@pytest.mark.parametrize(
    "args",
    [
        ("x",),
        ("x", "--weight", "0"),
        ("x", "--weight", "nan"),
        ("x", "--weight", "inf"),
        ("x", "--cap", "0"),
        ("x", "--cap", "1", "--no-cap"),
        ("x", "--weight", "1", "--reset"),
        ("", "--weight", "1"),
    ],
)
def test_terms_that_make_no_sense_are_a_usage_error(up: Penstock, args: tuple[str, ...]) -> None:
    assert up("tenant", "set", *args).status == 2


def test_a_tenants_jobs_run_within_its_cap_and_are_accounted(up: Penstock, gate: Path) -> None:
    up("tenant", "set", "capped", "--cap", "2")
    ids = [up("submit", "slow", str(gate), "--tenant", "capped").out.strip() for _ in range(5)]
    wait_for(lambda: row_of(up, "capped").get("running") == 2, what="two to run")
    row = row_of(up, "capped")
    assert (row["queued"], row["running"]) == (3, 2)
    stats = next(
        row for row in up("queue", "stats", "--json").jsonl() if (row["model"], row["lane"]) == ("slow", "interactive")
    )
    assert (stats["ready"], stats["claimed"]) == (3, 2)
    gate.touch()
    up("job", "wait", *ids)
    wait_for(lambda: row_of(up, "capped")["running"] == 0, what="nothing to run")
    used = row_of(up, "capped")["used_s"]
    assert isinstance(used, float) and used > 0
    up("tenant", "set", "capped", "--reset")


# Around it --------------------------------------------------------------------------------------------------------


def test_doctor_is_content(up: Penstock) -> None:
    def content() -> list[dict[str, str]]:
        """What it has found, once nothing is amiss: the dispatcher may still be starting, a worker's lease be late."""
        report = up("doctor", "--json")
        findings: list[dict[str, str]] = report.json()["findings"]
        return findings if report.status == 0 and all(found["status"] == "ok" for found in findings) else []

    found = {finding["name"]: finding for finding in wait_for(content, what="a healthy system")}
    tried = {"up", "broker", "broker writes", "database", "dispatcher", "worker", "clock", "device", "disk"}
    assert tried <= set(found)
    assert "the autoscaler has started: default 1" in found["machine"]["detail"], "not what another `up` would start"
    assert "lease.ttl_s" in up("doctor").out


def test_doctor_quietly_prints_what_it_found_alone(up: Penstock) -> None:
    lines = up("doctor", "-q").out.splitlines()
    assert lines and all(line.split()[0] in ("ok", "warning", "error", "fix:") for line in lines), lines


def test_logs_are_json_in_a_file_and_say_who_speaks(up: Penstock) -> None:
    """A wrong input is a line, without a traceback; a model's own fault has one."""
    job = up("run", "moody", "log", "--json").json()
    for model, input in (("double", '"7.5"'), ("moody", "refuse"), ("moody", "bad"), ("moody", "raise")):
        assert up("run", model, input).status in (1, 2)
    log = up.home / "logs" / "worker-default-1.log"
    wait_for(lambda: "no mood for this batch" in log.read_text(encoding="utf-8"), what="the last line")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    said = [line for line in lines if str(line["event"]).startswith("said by")]
    assert [line["event"] for line in said] == ["said by structlog", "said by logging"]
    assert {(line["model"], line["size"], line["job"]) for line in said} == {("moody", 1, job["id"])}
    assert said[0]["batch"] == said[1]["batch"] >= 1
    refused = [line for line in lines if "no such input" in json.dumps(line)]
    assert refused and all("exception" not in line for line in refused)
    assert any("no mood for this batch" in line.get("exception", "") for line in lines)
    assert not any("Input should be" in line.get("exception", "") for line in lines)


def test_db_current(up: Penstock) -> None:
    import penstock_migrations

    assert up("db", "current").out.strip() == penstock_migrations.head()
    assert up("db", "upgrade").status == 0, "again is harmless"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(up: Penstock, shell: str) -> None:
    assert "_PENSTOCK_COMPLETE" in up("completion", shell).out


def test_completion_knows_the_models(up: Penstock) -> None:
    env = {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": "penstock run do", "COMP_CWORD": "2"}
    script = (
        "import sys; sys.argv[0] = 'penstock'; from penstock_cli.main import cli; "
        "cli(prog_name='penstock', complete_var='_PENSTOCK_COMPLETE')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=up.folder, env=up.env | env, timeout=60
    )
    assert done.stdout.split(",")[-1].strip() == "double", done
