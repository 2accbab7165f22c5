"""What the pages for programmers show, run as it stands there: each page's blocks in their order, as one program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.cli import Penstock

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["models.md", "sdk.md"])
def test_the_page_runs(up: Penstock, page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    if page == "sdk.md":
        # Its model runs in a worker; the one that is served here has the same name and does the same.
        model = blocks.pop(0)
        assert "def double(" in model and "def double(" not in "".join(blocks)
    assert len(blocks) >= 3
    program = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(program, cwd=up.folder, env=up.env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
