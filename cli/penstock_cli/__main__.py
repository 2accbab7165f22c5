"""``python -m penstock_cli`` is ``penstock``."""

from __future__ import annotations

from penstock_cli.entry import main

main()
