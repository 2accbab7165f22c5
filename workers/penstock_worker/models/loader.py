"""Brings models up: one instance per class, loaded onto the device, warmed and probed with its own example."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from penstock import usercode
from penstock.calltypes import schemas_of
from penstock.clock import monotonic_s
from penstock.codec import codec_of
from penstock.errors import ModelLoadFailed, safe_text
from penstock.model import Model
from penstock.policy.latency import LatencyBook
from penstock.policy.pools import Place
from penstock.results import answers_of, results_of
from penstock.stepwise import Progress, StepModel
from penstock_worker import ceiling
from penstock_worker.canvas.waysout import is_the_models

log = structlog.get_logger(__name__)

#: Where no settings were asked.
NOWHERE: Mapping[str, Place] = MappingProxyType({})
#: Steps of a step-wise model's warm-up.
WARM_STEPS = 2
#: Batch sizes that are timed after the warm-up, and for how long at most, seconds.
PROBES, PROBE_S = (1, 2, 4, 8), 1.0


def load_models(models: Iterable[type[Model]], device: str, latency: LatencyBook | None = None) -> dict[str, Model]:
    """Instances by name, ready to predict. Raises ``ModelLoadFailed`` for the first that does not come up.

    What is not known in ``latency`` is probed, so that the first real batches are planned with a measured time.
    """
    loaded: dict[str, Model] = {}
    for cls in models:
        start = monotonic_s()
        model = loaded[cls.name] = load_model(cls, device)
        if latency is not None:
            latency.loaded(cls.name)
            if not latency.line(cls.name).seen:
                probe(model, latency)
        log.info("model loaded", action="model.load", model=cls.name, device=device, load_s=monotonic_s() - start)
    return loaded


def load_model(cls: type[Model], device: str) -> Model:
    """One instance, loaded and warmed; raises ``ModelLoadFailed``."""
    step = "load"
    try:
        model = cls()
        model.load(device)
        step = "warm up"
        example = model.example()
        if example is not NotImplemented:
            item = codec_of(cls).validate(example)
            if isinstance(model, StepModel):
                results = warm_steps(model, item)
            else:
                results = results_of(cls.name, model.predict([item]), 1)
            if isinstance(results[0], BaseException):
                raise results[0]
    except BaseException as error:
        if not is_the_models(error):
            raise
        fix = f"mend {cls.__module__}.{cls.__qualname__}"
        if ceiling.is_hit(error):
            fix = f"raise pools.NAME.memory, which is {ceiling.size(ceiling.bound() or 0)}, or serve it in another pool"
        raise ModelLoadFailed(
            f"model {cls.name!r} did not {step} on {device}: {usercode.told(error)}",
            fix=f"{fix}; the jobs wait and run when a worker serves it",
        ) from error
    return model


def warm_steps(model: StepModel, item: Any) -> Sequence[Any]:
    """The first ``WARM_STEPS`` steps of a generation: enough to compile and to allocate, whatever its length."""
    state = model.begin([item])
    for _ in range(WARM_STEPS):
        answer = dict(answers_of(model.name, model.step(state), {0})).get(0)
        if answer is not None and not isinstance(answer, Progress):
            model.finish(state, 0)
            return [answer]
    model.finish(state, 0)
    return [None]


def probe(model: Model, latency: LatencyBook) -> None:
    """Time small batches of the model's example; nothing without one. The warm-up has shown that it runs.

    Each size is timed at its second run: in the first the model may compile and allocate. The warm-up was that of one.
    """
    cls = type(model)
    example = model.example()
    if example is NotImplemented or isinstance(model, StepModel):
        return
    batching = cls.batching
    ends = monotonic_s() + PROBE_S
    for size in PROBES:
        if size > batching.max_size or monotonic_s() > ends:
            return
        items = [codec_of(cls).validate(example) for _ in range(size)]
        try:
            cost = sum(float(batching.cost(item)) for item in items) if batching.cost else float(size)
            if size > 1 and batching.max_cost is not None and cost > batching.max_cost:
                return
            if size > 1:
                model.predict(items)
            latency.first(cls.name, size)
            start = monotonic_s()
            model.predict(items)
            latency.observe(cls.name, cost, monotonic_s() - start)
        except BaseException as error:
            if not is_the_models(error):
                raise
            log.warning("a probe failed", action="model.probe", model=cls.name, size=size, error=safe_text(error))
            return


def fingerprint(cls: type[Model]) -> str | None:
    """Of the file that defines a model: the same for the same text, wherever it lies. ``None`` where it has none."""
    try:
        source = Path(sys.modules[cls.__module__].__file__ or "")
        return blake2b(source.read_bytes(), digest_size=8).hexdigest()
    except (AttributeError, KeyError, OSError):
        return None


def announce(models: Mapping[str, type[Model]], places: Mapping[str, Place] = NOWHERE) -> dict[str, Any]:
    """What a worker tells about its models when it registers: the catalogue that producers validate names with.

    ``places`` are the pools that the settings have put them into; a model says one itself, too, which others judge by.
    """
    return {
        name: {
            "version": cls.version,
            "declared": cls.declares_version(),
            "doc": cls.describe(),
            "max_size": cls.batching.max_size,
            "pool": places[name].pool if name in places else cls.resources.pool,
            "own_pool": cls.resources.pool,
            "steps": issubclass(cls, StepModel),
            "function": hasattr(cls, "of_function"),
            "memory": cls.resources.memory_bytes,
            "schema": dict(codec_of(cls).schema()),
            "exact": codec_of(cls).schema_tells_all(),
            "code": fingerprint(cls),
            **schemas_of(cls)._asdict(),
        }
        for name, cls in models.items()
    }
