"""Our messages of KEDA's protocol against those that its compiler makes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.autoscaler.front import wire
from tests.fixtures.keda import compiled

TEXT = st.text(st.characters(codec="utf-8"), max_size=200)


def messages() -> Any:
    return compiled()[0]


@given(name=TEXT, namespace=TEXT, metadata=st.dictionaries(TEXT, TEXT, max_size=5), metric=TEXT)
def test_what_keda_writes_is_read(name: str, namespace: str, metadata: dict[str, str], metric: str) -> None:
    ref = messages().ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=metadata)
    read = wire.ScaledObject(name, namespace, metadata)
    assert wire.scaled_object(ref.SerializeToString()) == read
    request = messages().GetMetricsRequest(scaledObjectRef=ref, metricName=metric)
    assert wire.metrics_request(request.SerializeToString()) == (read, metric)


@given(name=TEXT, value=st.integers(0, 2**40))
def test_what_is_written_keda_reads(name: str, value: int) -> None:
    data = wire.metric(name, value)
    (read,) = messages().GetMetricsResponse.FromString(data).metricValues
    assert (read.metricName, read.metricValue, read.metricValueFloat) == (name, value, float(value))
    (spec,) = messages().GetMetricSpecResponse.FromString(data).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (name, value, float(value))


@pytest.mark.parametrize("result", [True, False])
def test_activity_is_written_as_keda_writes_it(result: bool) -> None:
    assert wire.is_active(result) == messages().IsActiveResponse(result=result).SerializeToString()


def test_fields_of_later_versions_are_passed_over() -> None:
    ref = messages().ScaledObjectRef(name="a", scalerMetadata={"pool": "gpu"}).SerializeToString()
    later = b"\x48\x07" + b"\x51" + bytes(8) + b"\x5d" + bytes(4) + b"\x62\x03new"
    assert wire.scaled_object(later + ref + later) == wire.ScaledObject("a", "", {"pool": "gpu"})


@given(st.binary(max_size=60))
def test_anything_else_is_refused_or_read_and_never_hangs(data: bytes) -> None:
    for read in (wire.scaled_object, wire.metrics_request):
        try:
            read(data)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05ab",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x03",
        b"\x08\x01",
        b"\x0a\x01\xff",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        wire.scaled_object(data)
