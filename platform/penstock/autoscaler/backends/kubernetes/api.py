"""The calls of the API that write or must be fresh, and what their failures mean."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx2
import msgspec
from lightkube import Client
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, Event, Pod
from lightkube.types import CascadeType, PatchType

from penstock.autoscaler.backends.base import BackendUnavailable
from penstock.autoscaler.backends.kubernetes.manifest import EPOCH, HOLDER, Owner
from penstock.autoscaler.backends.kubernetes.seen import sentence
from penstock.errors import ConfigError

#: A Job to be made, as JSON: fields that the library does not know are passed on.
RawJob = create_namespaced_resource("batch", "v1", "Job", "jobs")
#: Failures of a call: the connection, the status, and an answer that is none.
FAILURES = (httpx2.HTTPError, msgspec.MsgspecError, ValueError, KeyError)
#: How often a mark that others change is tried.
TRIES = 5

T = TypeVar("T")


class ClusterUnavailable(BackendUnavailable):
    """The API does not answer, or not as it should. ``retry_after``: when it wants to be asked again, if it says so."""

    def __init__(self, message: str, *, retry_after: float | None = None, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.retry_after = retry_after


class Refused(Exception):
    """The API takes requests, and not this one: a quota, an admission rule, a template that is wrong."""


class Api:
    """One namespace of a cluster, for one fleet. Not for several threads."""

    def __init__(self, client: Client, *, fleet: str) -> None:
        self._client = client
        self._fleet = fleet

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def claim(self, epoch: int, holder: str) -> tuple[int, str, Owner]:
        """Leave both at the fleet's ConfigMap unless a newer epoch, or another holder of the same, is there: what is
        there now, and Jobs' owner.

        Compare-and-set: of two leaders at a time, both are told the newer one's.
        """
        for _ in range(TRIES):
            mark = self._mark().metadata or ObjectMeta()
            owner = Owner(self._fleet, mark.uid or "")
            notes = mark.annotations or {}
            noted, by = notes.get(EPOCH, ""), notes.get(HOLDER, holder)  # earlier releases leave no holder
            if noted.isdecimal() and int(noted) >= epoch:
                return int(noted), by, owner
            claimed = {EPOCH: str(epoch), HOLDER: holder}
            if self._patched({"metadata": {"resourceVersion": mark.resourceVersion, "annotations": claimed}}):
                return epoch, holder, owner
        raise ClusterUnavailable(f"the ConfigMap {self._fleet} is changed all the time")

    def create(self, manifest: dict[str, Any]) -> Job | None:
        """Make a Job; ``None`` if one of this name exists. Raises ``Refused``."""
        try:
            made = self._client.create(RawJob(**manifest))
        except FAILURES as error:
            told = Told.by(error)
            if told.code == 409 and told.reason == "AlreadyExists":
                return None
            if told.code in (400, 403, 422):
                raise Refused(sentence(told.reason, told.message)) from error
            raise unavailable(error) from error
        return msgspec.convert(dict(made), Job)

    def job(self, name: str) -> Job | None:
        """A Job by its name, as it is now."""
        with suppress(_Missing):
            return _asked(lambda: self._client.get(Job, name))
        return None

    def pod(self, name: str) -> Pod | None:
        """A pod by its name, as it is now. By a list, since the chart's Role gets no pods."""
        fields: dict[str, Any] = {"metadata.name": name}
        return next(iter(_asked(lambda: list(self._client.list(Pod, fields=fields)))), None)

    def delete(self, name: str) -> None:
        """Delete a Job and, by and by, its pods. One that is gone is no error."""
        with suppress(_Missing):
            _asked(lambda: self._client.delete(Job, name, cascade=CascadeType.BACKGROUND))

    def failed_creates(self) -> dict[str, str]:
        """Why Jobs have no pods, by name: the newest event of each."""
        fields: dict[str, Any] = {"involvedObject.kind": "Job", "reason": "FailedCreate"}
        events: list[Any] = _asked(lambda: list(self._client.list(Event, fields=fields, chunk_size=500)))
        return {event.involvedObject.name or "": sentence(event.reason, event.message) for event in events}

    def _mark(self) -> ConfigMap:
        try:
            return _asked(lambda: self._client.get(ConfigMap, self._fleet))
        except _Missing:
            raise ConfigError(
                f"there is no ConfigMap {self._fleet} in namespace {self._client.namespace}",
                fix=f"install the chart, which brings it, or: kubectl create configmap {self._fleet}",
            ) from None

    def _patched(self, change: dict[str, Any]) -> bool:
        try:
            self._client.patch(ConfigMap, self._fleet, change, patch_type=PatchType.MERGE)
        except FAILURES as error:
            if Told.by(error).code == 409:
                return False
            raise unavailable(error) from error
        return True


class _Missing(Exception):
    """What was asked for does not exist."""


def _asked(call: Callable[[], T]) -> T:
    try:
        return call()
    except FAILURES as error:
        if Told.by(error).code == 404:
            raise _Missing from error
        raise unavailable(error) from error


@dataclass(frozen=True, slots=True)
class Told:
    """What an error says. Behind a proxy the library does not take the API's errors for what they are, so it is read
    here, from the answer."""

    code: int | None
    reason: str
    message: str
    retry_after: float | None = None

    @classmethod
    def by(cls, error: BaseException) -> Told:
        """Read it; never raises."""
        if not isinstance(error, httpx2.HTTPStatusError):
            return cls(None, "", str(error) or type(error).__name__)
        status, response = getattr(error, "status", None), cast("httpx2.Response | None", error.response)
        if response is None:  # an event of a watch
            return cls(status.code, status.reason or "", status.message or "") if status else cls(None, "", str(error))
        body: Any = None
        with suppress(ValueError, httpx2.HTTPError, httpx2.StreamError):
            body = response.json()
        told = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
        after = response.headers.get("Retry-After", "")
        return cls(
            response.status_code,
            str(told.get("reason") or ""),
            str(told.get("message") or response.reason_phrase),
            float(after) if after.isdecimal() else None,
        )


def unavailable(error: BaseException) -> ClusterUnavailable:
    """What a failed call means: when to come back, and what a person can do."""
    told = Told.by(error)
    fix = ""
    if told.code in (401, 403):
        fix = "give the autoscaler's service account the chart's Role: jobs, pods, events and its ConfigMap"
    return ClusterUnavailable(
        f"Kubernetes does not answer as it should: {sentence(str(told.code) if told.code else None, told.message)}",
        retry_after=told.retry_after,
        fix=fix,
    )
