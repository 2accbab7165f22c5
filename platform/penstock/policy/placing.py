"""Where the workers of a machine go: which device, how many threads, how much memory, and how many fit. PURE.

A device is one worker's, unless the pools of all that are on it say that they ``share`` one. Memory is never promised
twice; cores are, since pools are seldom busy together.

What is not promised: that the memory is there. Other programs take some, and a model may need more than it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

#: Cores of a worker of a pool that does not say how many workers it wants: beyond four, small models gain little from
#: one more, and a second worker gains all.
CORES_PER_WORKER = 4
#: What a worker with torch takes before it has loaded a model, bytes.
PROCESS_BYTES = 400 * 2**20
#: The part of the machine's memory that workers may take: brokers, databases and file caches want some.
USABLE = 0.9

#: Variables that tell libraries how many threads to start: OpenMP, MKL, OpenBLAS, and Rust's rayon (tokenizers).
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
#: An environment in which nothing is set.
NOTHING: Mapping[str, str] = MappingProxyType({})
#: Which CUDA devices a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator."""

    #: What ``CUDA_VISIBLE_DEVICES`` takes: a UUID, or the index where there is none.
    id: str
    index: int
    name: str = ""
    #: Bytes; ``None``: not known.
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this process may use of its machine, a container's limits taken off."""

    cores: float
    #: Bytes.
    memory: int
    devices: tuple[Device, ...] = ()
    #: Whether it is known that there are no other devices.
    certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the workers of one pool want of a machine."""

    pool: str
    #: "cpu", "cuda", …; ``None``: whatever the worker finds.
    kind: str | None = None
    #: The devices that it may have, by index or id; none: all.
    devices: frozenset[str] = frozenset()
    #: Workers that may be on one device.
    share: int = 1
    #: Bytes of each worker's device; ``None``: it does not say.
    device_memory: int | None = None
    #: Ceiling of each worker's memory, bytes; ``None``: there is none.
    memory: int | None = None
    #: Bytes that each worker is expected to take, where there is no ceiling.
    weighs: int = PROCESS_BYTES
    #: Threads of each worker; ``None``: its part of the cores.
    threads: int | None = None
    weight: float = 1.0
    least: int = 1
    #: ``None``: what fits.
    most: int | None = None
    #: Whether a worker has one thread by nature: functions in Python.
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A worker's place. ``as_json`` is kept with whatever runs it, so that others count it."""

    pool: str
    #: The id of its device; empty: it is to see none; ``None``: whatever it finds.
    device: str | None = None
    share: int = 1
    device_memory: int = 0
    threads: int = 1
    #: Whether the settings say how many threads, so that it counts more than what stands in the environment.
    said: bool = False
    #: Bytes that are counted for it.
    memory: int = 0

    def as_json(self) -> dict[str, Any]:
        """For ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Seat:
        """What another release has left out has its default; what it has added is dropped."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


@dataclass(frozen=True, slots=True)
class NoSeat:
    """Why there is no place, for a person."""

    reason: str


@dataclass(slots=True)
class _Floor:
    """What is left while seats are given away."""

    machine: Machine
    memory: float
    seats: dict[str, list[Seat]] = field(default_factory=dict)
    anywhere: int = 0

    def take(self, seat: Seat) -> None:
        self.memory -= seat.memory
        if seat.device:
            self.seats.setdefault(seat.device, []).append(seat)
        elif seat.device is None:
            self.anywhere += 1


def seat(machine: Machine, needs: Needs, taken: Iterable[Seat] = ()) -> Seat | NoSeat:
    """A place for one more worker beside those that are ``taken``: on the device with the fewest workers."""
    return _seat(_floor(machine, taken), needs)


def fit(
    machine: Machine, needs: Sequence[Needs], *, wanted: Mapping[str, int] | None = None, taken: Iterable[Seat] = ()
) -> dict[str, int]:
    """How many workers each pool has here, if it is to have as many as are ``wanted`` (default: the most it may).

    Where not all fit, first all have their least, then the rest is shared by weight. ``taken`` are seats of pools that
    are not in ``needs``, or of other programs.
    """
    floor = _floor(machine, taken)
    counts = {each.pool: 0 for each in needs}
    goals = {each.pool: _goal(machine, each, wanted) for each in needs}
    for stage in ("least", "all"):
        open_ = [each for each in needs if goals[each.pool] > 0]
        while open_:
            # Who has the least for its weight comes next; by name where two have the same.
            turn = min(open_, key=lambda each: (counts[each.pool] / each.weight, each.pool))
            limit = min(turn.least, goals[turn.pool]) if stage == "least" else goals[turn.pool]
            found = _seat(floor, turn) if counts[turn.pool] < limit else None
            if isinstance(found, Seat):
                floor.take(found)
                counts[turn.pool] += 1
            else:
                open_.remove(turn)
    return counts


def most(machine: Machine, needs: Needs) -> int:
    """How many workers the pool has at most on a machine of its own, as far as devices and cores say; at least 1."""
    if needs.most is not None:
        return max(1, needs.most)
    if needs.kind not in (None, "cpu"):
        return max(1, len(_allowed(machine, needs))) * needs.share
    if needs.single:
        return max(1, int(machine.cores))
    return max(1, int(machine.cores) // (needs.threads or CORES_PER_WORKER))


def environ(seat: Seat, given: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """The variables with which a worker starts on its seat. How many threads is left as it is ``given``, unless the
    settings say it."""
    found = {name: str(seat.threads) for name in THREADS if seat.said or not given.get(name)}
    return found if seat.device is None else found | {VISIBLE: seat.device}


def unseated(pool: str, *, threads: int | None, cores: float, shown: int) -> Seat | None:
    """The seat of a worker that somebody has started by hand, or in a container of its own: all that is there.

    ``shown`` are the cores that libraries count, which do not see a container's quota, and start as many threads as
    the whole machine has cores. ``None`` where there is nothing to tell them.
    """
    if threads is None and cores >= shown:
        return None
    return Seat(pool=pool, threads=threads or max(1, int(cores)), said=threads is not None)


def _floor(machine: Machine, taken: Iterable[Seat]) -> _Floor:
    floor = _Floor(machine, machine.memory * USABLE)
    for each in taken:
        floor.take(each)
    return floor


def _goal(machine: Machine, needs: Needs, wanted: Mapping[str, int] | None) -> int:
    if wanted is not None:
        return wanted.get(needs.pool, 0)
    return most(machine, needs) if needs.most is None else needs.most


def _seat(floor: _Floor, needs: Needs) -> Seat | NoSeat:
    machine = floor.machine
    memory = needs.weighs if needs.memory is None else needs.memory
    if memory > floor.memory:
        left = max(0.0, floor.memory)
        return NoSeat(
            f"no memory for another worker of pool {needs.pool}: it wants {_gib(memory)}, {_gib(left)} of"
            f" {_gib(machine.memory)} is left"
        )
    device: str | None = "" if needs.kind == "cpu" else None
    if needs.kind not in (None, "cpu") and (machine.devices or machine.certain):
        found = _device(floor, needs)
        if isinstance(found, NoSeat):
            return found
        device = found.id
    threads = needs.threads or (1 if needs.single else max(1, int(machine.cores) // most(machine, needs)))
    return Seat(
        pool=needs.pool,
        device=device,
        share=needs.share,
        device_memory=needs.device_memory or 0,
        threads=threads,
        said=needs.threads is not None,
        memory=memory,
    )


def _device(floor: _Floor, needs: Needs) -> Device | NoSeat:
    allowed = _allowed(floor.machine, needs)
    if not allowed:
        there = ", ".join(str(each.index) for each in floor.machine.devices) or "none"
        asked = f"device {', '.join(sorted(needs.devices))}" if needs.devices else f"a device of kind {needs.kind}"
        return NoSeat(f"pool {needs.pool} wants {asked}, and this machine has {there}")
    free = [each for each in allowed if _takes(floor, each, needs)]
    if not free:
        return NoSeat(
            f"no device for another worker of pool {needs.pool}: {len(allowed)} may be used, {needs.share} worker"
            f"{'s' if needs.share > 1 else ''} on each"
        )
    return min(free, key=lambda each: (len(floor.seats.get(each.id, ())), each.index))


def _takes(floor: _Floor, device: Device, needs: Needs) -> bool:
    there = floor.seats.get(device.id, [])
    if len(there) >= min([needs.share, *(other.share for other in there)]):
        return False
    if device.memory is None:
        return True
    return sum(other.device_memory for other in there) + (needs.device_memory or 0) <= device.memory


def _allowed(machine: Machine, needs: Needs) -> list[Device]:
    if not needs.devices:
        return list(machine.devices)
    return [each for each in machine.devices if {each.id, str(each.index)} & needs.devices]


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
