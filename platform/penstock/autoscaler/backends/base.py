"""The contract of a backend: it makes the workers that the slots ask for, and ends those that they do not.

A backend decides nothing. It is called with the rows as they are, again and again, and does what is missing: level
triggered, so that whatever was lost (an answer, a process, the autoscaler itself) is made up for at the next call. Its
words about what it has made stand in the row's ``place``, so that a successor finds it.

``tests/contract/test_scaling_backends.py`` holds every backend to this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from penstock.errors import Unreachable
from penstock.store.elastic import Slot, Term


class BackendUnavailable(Unreachable):
    """The backend does not answer: the fleet stays as it is, and the next look tries again."""

    code = "backend_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Realised:
    """What a backend has found."""

    #: Slots, as they were read, that nothing realises any more: what did has ended.
    gone: Sequence[Slot] = ()
    #: Why a slot's worker does not come up, for a person, by slot: a crash loop, no room, a failed image pull.
    stuck: Mapping[str, str] = field(default_factory=dict)
    #: Ids of slots whose worker was started as workers of its pool no longer are: it works, and wants to be replaced.
    outdated: AbstractSet[str] = frozenset()


#: More room than anybody wants.
UNBOUNDED = 1_000_000


class Backend(Protocol):
    """One place where workers run. Called from one thread at a time."""

    #: As ``autoscaler.backend`` has it.
    name: str

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        """Do what is missing between these rows and what runs, and tell what has ended.

        Slots that are wanted or parked get a worker: ``Elastic.place`` announces its start with a new fence before it
        is started, and where that answers ``False``, nothing is. Slots that drain have their worker asked to drain, and
        ended only after its grace. What has ended is told as ``gone``, and started again when the row says so.

        Returns soon: nothing is waited for. Raises ``BackendUnavailable``.
        """
        ...

    def follow(self) -> None:
        """In the place of ``realise`` while another one leads: forget what has ended here. Changes no row."""
        ...

    def room(self, pool: str, slots: Sequence[Slot]) -> int:
        """For how many workers of this pool there is room now, beside those of other pools in these slots and whatever
        the pool's max: those that have a place, and at least one more if there is one. ``UNBOUNDED`` where only trying
        tells."""
        ...

    def close(self) -> None:
        """Let go of what the backend holds here. Workers go on. Can be called again."""
        ...
