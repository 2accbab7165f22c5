"""The wheel alone: the SDK and the command line, without torch, a broker or a worker.

Run by ``.ci/run`` in an environment that has only the wheel. Leaves one accepted job in the home folder, for
``smoke_up.py`` to run.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

MODEL = '''
import penstock

@penstock.model(name="shout", max_size=8)
def shout(batch: list[str]) -> list[str]:
    """Upper case."""
    return [text.upper() for text in batch]
'''


def main(home: Path) -> None:
    assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
    import penstock

    assert not {"torch", "celery", "kombu", "sqlalchemy"}.intersection(sys.modules), "import penstock must be light"

    Path("smoke_models.py").write_text(MODEL, encoding="utf-8")
    os.environ |= {"PENSTOCK_HOME": str(home), "PENSTOCK_MODELS": "smoke_models"}
    sys.path.insert(0, ".")
    command = Path(sys.executable).with_name("penstock")
    subprocess.run([command, "--version"], check=True)
    subprocess.run([command, "db", "upgrade"], check=True)
    with penstock.Client() as client:
        job = client.enqueue("shout", "left by the sdk")
        assert job.status == "accepted", job.status  # nobody publishes it: there is no broker
    subprocess.run([command, "job", "get", job.id], check=True)
    Path("left.txt").write_text(job.id, encoding="utf-8")
    print("the wheel alone: ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
