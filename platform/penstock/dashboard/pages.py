"""Flower's pages without what a worker of models has not: a pool that grows, and what only RabbitMQ tells.

The templates are Flower's; what is cut out is named here. A part that is not found stays, and the log says so.
"""

from __future__ import annotations

import re
from pathlib import Path

import structlog
from tornado.template import Loader, Template

log = structlog.get_logger(__name__)

_CUTS = {
    "worker.html": {
        "the pool's controls": r'<section class="worker-panel worker-controls-panel".*?</section>',
        "the restart of the pool": r'<li>\s*<button id="worker-pool-restart".*?</li>',
    },
    "broker.html": {
        "the column of idle times": r'<th class="[^"]*">Idle since</th>',
        "the idle times": r"<td class=\"[^\"]*\">\{% raw format_value\(queue\.get\('idle_since'\)\) %\}</td>",
    },
}


class Pages(Loader):
    """Flower's templates, cut."""

    def _create_template(self, name: str) -> Template:
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        return Template(cut(name, text), name=name, loader=self)


def cut(page: str, text: str) -> str:
    """A page's source without the parts that would promise something."""
    for part, pattern in _CUTS.get(page, {}).items():
        text, found = re.subn(pattern, "", text, flags=re.DOTALL)
        if not found:
            log.warning("a part of Flower's pages was not found", action="dashboard.page", page=page, part=part)
    return text.replace('colspan="6"', 'colspan="5"') if page == "broker.html" else text
