"""What a chain and a group consist of, once those in them are taken apart as Celery does. PURE.

Celery's rules, as its worker follows them (5.7): a group in a group is its members, a chain in a chain is its steps, a
group of one in a chain is its member, an empty chain is nothing, and an empty group is nothing where there is anything
else. Options said of a group are each member's, those of a chain its first one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from penstock.errors import InvalidInput
from penstock.pipelines.canvas.signature import CHAIN, CHORD, GROUP, Signature


class Member(NamedTuple):
    """A signature with what was said of it, and what follows it besides, by what it was in."""

    signature: Signature
    options: Mapping[str, Any]
    links: list[Signature]


def member(signature: Signature, around: Mapping[str, Any], links: list[Signature] | None = None) -> Member:
    """What is said around a signature has the last word; the links around it are not its own."""
    kept = {name: value for name, value in around.items() if name != "link"}
    return Member(signature, signature.options | kept, [*signature.links, *(links or [])])


def flat(group: Signature, around: Mapping[str, Any]) -> list[Member]:
    """The members of a group or of a chord's header."""
    found: list[Member] = []
    for each in group.members:
        inner = member(each, around)
        if each.task == GROUP:
            check_whole(each)
            no_links(each, inner.links)
            found += flat(each, inner.options)
        elif each.task != CHAIN or each.members:
            found.append(inner)
    return found


def spliced(chain: Signature, around: Mapping[str, Any]) -> list[Member]:
    """The steps of a chain, none of which is a chain."""
    check_whole(chain)
    found: list[Member] = []
    for each in chain.members:
        inner = member(each, {} if found else around)
        for _ in range(1 if found else 2):  # Celery looks at the first one twice
            inner = _alone(inner)
        if inner.signature.task == CHAIN:
            steps = spliced(inner.signature, inner.options)
            if steps:
                steps[-1].links.extend(inner.links)
            found += steps
        else:
            found.append(inner)
    full = [each for each in found if each.signature.task != GROUP or each.signature.members]
    return full or found[-1:]


def _alone(one: Member) -> Member:
    """The member of a group of one."""
    group = one.signature
    if group.task != GROUP or len(group.members) != 1:
        return one
    check_whole(group)
    no_links(group, one.links)
    return member(group.members[0], one.options)


def check_whole(whole: Signature) -> None:
    """Raise ``InvalidInput`` for what Celery drops when it takes a composition apart."""
    kind = whole.task.removeprefix("celery.")
    if whole.args and whole.task != CHORD:
        raise InvalidInput(f"a {kind} has arguments of its own, which Celery drops", fix="give them to its first task")
    allowed = ("header", "body", "kwargs") if whole.task == CHORD else ("tasks",)
    other = [*(name for name in whole.kwargs if name not in allowed), *(whole.kwargs.get("kwargs") or ())]
    if other:
        raise InvalidInput(f"a {kind} has arguments by name: {', '.join(other)}", fix="give them to its tasks")


def no_links(whole: Signature, links: list[Signature]) -> None:
    """Raise ``InvalidInput`` where many results have a link."""
    if links:
        kind = whole.task.removeprefix("celery.")
        raise InvalidInput(f"a {kind} with many results has a link", fix="write chain(…, task): it is given their list")
