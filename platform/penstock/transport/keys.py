"""Every Redis key that penstock uses.

========================================  ========  ==============================================================
key                                       type      what it holds
========================================  ========  ==============================================================
``{ns}.{model}.{lane}``                   list      ready messages of priority 0..2: the queue as others see it
``{ns}.{model}@{version}.{lane}``         list      the same of jobs that ask for a version: a queue of its own
``{ns}.{model}.{lane}\\x06\\x16{3|6|9}``    list      ready messages of higher priorities (kombu's own key form)
``…\\x06\\x16{step}\\x06\\x16{tenant}``       list      the same of another tenant than ``default``; step 0, 3, 6, 9
``{ns}:bell:{queue}``                     list      at most one element: "the queue may hold something"
``{ns}:bell:@{consumer}``                 list      a consumer's private bell, to end its own idle wait
``{ns}:unacked:{consumer}``               hash      claimed messages: tag -> list key, NUL, message; where tenants
                                                    share a queue: NUL, charge, NUL before that
``{ns}:consumers``                        zset      consumer -> when its lease ends (Unix seconds of the server)
``{ns}:tags``                             string    counter of delivery tags, in the order of the claims
``{ns}:tenants:busy:{queue}``             zset      tenants that may have messages there -> virtual counter, weighted
                                                    device seconds; -1: no claim has looked at it yet
``{ns}:tenants:idle:{queue}``             zset      other tenants whose counter is ahead; ``""`` -> the least counter
``{ns}:tenants:weight``                   hash      tenant -> weight, where it is not 1
``{ns}:tenants:cap``                      hash      tenant -> most jobs that may run (be claimed) at a time
``{ns}:tenants:used``                     hash      tenant -> device seconds since the data set began
``{ns}:device``                           hash      queue -> device seconds since the data set began
``{ns}:done``                             hash      queue -> jobs that have left a device since the data set began
``{ns}:refused``                          hash      queue -> jobs that admission has refused since the data set began
``{ns}:tenants:held:{tenant}``            set       with a cap: "tag consumer" of what was claimed, and maybe of more
``{ns}.returns``                          list      plain Celery tasks in runs that have ended, as their workers say;
                                                    with kombu's suffixes for the priorities that theirs use
``{ns}:task:{job}``                       string    that the message of such a task was sent; an hour
``{ns}:dead``                             list      the newest messages that were no JSON, for inspection
``{ns}:epoch``                            string    random text; it changes when the data set was lost
``{ns}:owner``                            string    which database the namespace belongs to (JSON)
``{ns}:dispatcher``                       string    who dispatched last (JSON), while it can be believed to live
``{ns}:doctor``                           string    what ``penstock doctor`` writes, to see whether it can; for seconds
``{ns}:residents``                        hash      worker -> the models that it has loaded, and memory (JSON)
``{ns}:load:{model}``                     hash      worker -> what it says of its load (JSON), for admission
``{ns}:progress:{job}``                   stream    partial output: entry ``{attempt}-{index}``, bounded, with a TTL;
                                                    of a run, that of all its steps: ``{attempt}-{place}``
``{ns}:reply:{client}``                   pub/sub   results for one client
``{ns}:events``                           pub/sub   changes of state of all jobs, and that some have made progress
``{ns}:wake:{model}``                     pub/sub   jobs of a model were published; a bell that wakes autoscalers
``{ns}:aside:{key}``                      any       a key that had another type, or what could not be read; a day
========================================  ========  ==============================================================

Messages are pushed on the left and claimed on the right, as kombu does. The *head* of a queue is its right end.
All keys carry the namespace themselves, so kombu's ``global_keyprefix`` is not needed, and must not be set.
A tenant's name is written as in a URL's path (``quote``), so that it holds no separator. Jobs of ``default``, and
whatever stock producers send, stand on the queue's own lists: without tenants nothing differs from kombu's form.
The scripts touch several keys at a time: one Redis (or one Sentinel group), not Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, unquote

from penstock.job import DEFAULT_TENANT
from penstock.lane import LANES

#: kombu's separator between a queue's name and its priority step.
SEP = "\x06\x16"

#: kombu's priority steps: a priority falls on the largest step that is not above it.
PRIORITY_STEPS = (0, 3, 6, 9)

#: The same, in the order in which our consumers serve them.
SERVED_STEPS = (9, 6, 3, 0)

#: A bell that nobody hears is removed after this time; it is only a hint.
BELL_TTL_S = 60

#: A model's load is removed when no worker has written it for so long; readers go by the time in each entry.
LOAD_TTL_S = 3600


def step_of(priority: int) -> int:
    """The priority step that ``priority`` (0..9, larger goes first) falls on."""
    return min(max(priority, 0), 9) // 3 * 3


def list_key(queue: str, priority: int = 0, tenant: str = DEFAULT_TENANT) -> str:
    """The Redis list of a queue's messages of this priority and tenant."""
    step = step_of(priority)
    if tenant != DEFAULT_TENANT:
        return f"{queue}{SEP}{step}{SEP}{tenant_id(tenant)}"
    return f"{queue}{SEP}{step}" if step else queue


def list_keys(queue: str, tenant: str = DEFAULT_TENANT) -> tuple[str, ...]:
    """All lists of a tenant in a queue, in the order in which they are served."""
    return tuple(list_key(queue, step, tenant) for step in SERVED_STEPS)


@lru_cache(maxsize=4096)
def tenant_id(tenant: str) -> str:
    """A tenant's name as keys and scripts have it."""
    return quote(tenant, safe="@:+", errors="surrogatepass")


def tenant_of_id(id: str) -> str:
    """The tenant's name, read back."""
    return unquote(id, errors="surrogatepass")


def tenant_of(key: str) -> str:
    """The tenant that a list key belongs to."""
    parts = key.split(SEP, 2)
    return tenant_of_id(parts[2]) if len(parts) == 3 else DEFAULT_TENANT


def priority_of(key: str) -> int:
    """The priority step of a list key."""
    parts = key.split(SEP, 2)
    return int(parts[1]) if len(parts) > 1 else 0


def queue_of(key: str) -> str:
    """The queue that a list key belongs to."""
    return key.split(SEP, 1)[0]


def bell(namespace: str, queue: str) -> str:
    """The bell of a queue."""
    return f"{namespace}:bell:{queue}"


def own_bell(namespace: str, consumer: str) -> str:
    """A consumer's private bell."""
    return f"{namespace}:bell:@{consumer}"


def bell_prefix(namespace: str) -> str:
    """What comes before the queue in the name of its bell; scripts build the name from it."""
    return f"{namespace}:bell:"


def unacked(namespace: str, consumer: str) -> str:
    """The messages that a consumer has claimed."""
    return f"{namespace}:unacked:{consumer}"


def unacked_prefix(namespace: str) -> str:
    """What comes before the consumer in the key of its claimed messages."""
    return f"{namespace}:unacked:"


def consumers(namespace: str) -> str:
    """The leases of the consumers."""
    return f"{namespace}:consumers"


def residents(namespace: str) -> str:
    """What workers with too little memory for all their models have loaded."""
    return f"{namespace}:residents"


def tags(namespace: str) -> str:
    """The counter of delivery tags."""
    return f"{namespace}:tags"


def tenants(namespace: str) -> str:
    """What comes before the rest in the keys of the tenants; scripts build the names from it."""
    return f"{namespace}:tenants:"


def busy(namespace: str, queue: str) -> str:
    """The tenants that may have messages in a queue, with their counters. ``default`` is not always among them."""
    return f"{namespace}:tenants:busy:{queue}"


def used(namespace: str) -> str:
    """The device seconds of all tenants."""
    return f"{namespace}:tenants:used"


def device(namespace: str) -> str:
    """The device seconds of all queues."""
    return f"{namespace}:device"


def done(namespace: str) -> str:
    """The jobs of all queues that have left a device."""
    return f"{namespace}:done"


def refused(namespace: str) -> str:
    """The jobs of all queues that admission has refused."""
    return f"{namespace}:refused"


def weights(namespace: str) -> str:
    """The weights of tenants, where set."""
    return f"{namespace}:tenants:weight"


def caps(namespace: str) -> str:
    """The caps of tenants, where set."""
    return f"{namespace}:tenants:cap"


def dead(namespace: str) -> str:
    """Messages that could not be read."""
    return f"{namespace}:dead"


def returns(namespace: str) -> str:
    """The queue in which workers of other programs tell of plain tasks that have ended."""
    return f"{namespace}.returns"


def task(namespace: str, job: str) -> str:
    """Whether the message of a plain task was sent."""
    return f"{namespace}:task:{job}"


def task_queues(namespace: str) -> str:
    """The queues of other programs to which runs have sent plain tasks."""
    return f"{namespace}:queues"


def aside_prefix(namespace: str) -> str:
    """What comes before the name of a key that ``transport.mend`` sets aside."""
    return f"{namespace}:aside:"


#: Type and content of our keys, by what follows the namespace: a name, or the beginning of one where it ends with ":".
#: Contents are what ``lua/mend.lua`` knows; the others are free text.
_FORMS = {
    "consumers": ("zset", "leases"),
    "tags": ("string", "counter"),
    "tenants:weight": ("hash", "weights"),
    "tenants:cap": ("hash", "caps"),
    "tenants:used": ("hash", "seconds"),
    "device": ("hash", "seconds"),
    "done": ("hash", "seconds"),
    "dead": ("list", ""),
    "epoch": ("string", ""),
    "owner": ("string", ""),
    "dispatcher": ("string", ""),
    "doctor": ("string", ""),
    "residents": ("hash", ""),
    "queues": ("set", ""),
    "bell:": ("list", ""),
    "unacked:": ("hash", "claimed"),
    "tenants:busy:": ("zset", "busy"),
    "tenants:idle:": ("zset", "idle"),
    "tenants:held:": ("set", "held"),
    "load:": ("hash", ""),
    "progress:": ("stream", ""),
    "task:": ("string", ""),
}


def form_of(namespace: str, key: str) -> tuple[str, str] | None:
    """The type that a key must have, and what stands in it; ``None`` for keys that are not ours."""
    if key.startswith(f"{namespace}."):
        # Somebody else's key may begin like ours: only what ends with a lane is a queue of ours.
        return ("list", "") if queue_of(key).rpartition(".")[2] in LANES else None
    if not key.startswith(f"{namespace}:"):
        return None
    rest = key[len(namespace) + 1 :]
    if rest in _FORMS:
        return _FORMS[rest]
    return next((form for start, form in _FORMS.items() if start.endswith(":") and rest.startswith(start)), None)


def named(namespace: str, queues: Iterable[str] = ()) -> list[str]:
    """The keys of a namespace that there is one of, and the books of these queues."""
    names = [f"{namespace}:{name}" for name in _FORMS if not name.endswith(":")]
    for queue in queues:
        names += [queue, bell(namespace, queue), busy(namespace, queue), f"{tenants(namespace)}idle:{queue}"]
    return names


def epoch(namespace: str) -> str:
    """The mark of the data set."""
    return f"{namespace}:epoch"


def owner(namespace: str) -> str:
    """The database that the namespace belongs to."""
    return f"{namespace}:owner"


def dispatcher(namespace: str) -> str:
    """The last dispatcher's sign of life."""
    return f"{namespace}:dispatcher"


def doctor(namespace: str) -> str:
    """The key that ``penstock doctor`` tries to write."""
    return f"{namespace}:doctor"


def load(namespace: str, model: str) -> str:
    """What the workers of a model say of their load."""
    return f"{namespace}:load:{model}"


def progress(namespace: str, job: str) -> str:
    """The partial output of a job: see ``transport.progress``."""
    return f"{namespace}:progress:{job}"


def reply(namespace: str, client: str) -> str:
    """The pub/sub channel on which a client hears its results."""
    return f"{namespace}:reply:{client}"


def events(namespace: str) -> str:
    """The pub/sub channel of all changes of state."""
    return f"{namespace}:events"


def wake(namespace: str, model: str) -> str:
    """The pub/sub channel on which the publication of a model's jobs is told, whatever their lane and version."""
    return f"{namespace}:wake:{model}"
