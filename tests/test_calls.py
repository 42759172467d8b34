"""A call is plain data: it survives the way to another process, with its deadline counted anew."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import MAX_NAME, Call, Principal, ServiceId, decode_call, encode_call
from insula.errors import CallerError

identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
ids = st.builds(
    lambda namespace, name, version: ServiceId(".".join(namespace), name, version),
    st.lists(identifiers, min_size=1, max_size=3),
    identifiers,
    identifiers,
)
headers = st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=4).map(tuple)
calls = st.builds(
    Call,
    ids,
    identifiers,
    st.binary(max_size=50),
    st.floats(-1e6, 1e6).map(lambda seconds: time.monotonic() + seconds),
    headers,
    st.none() | st.builds(Principal, st.text(max_size=10), st.lists(st.text(max_size=5), max_size=3).map(tuple)),
    st.text(max_size=10),
    st.text(max_size=10),
    st.text(max_size=10),
    st.lists(st.text(max_size=10), max_size=3).map(tuple),
)


@given(ids)
def test_an_id_is_read_as_it_is_written(service: ServiceId) -> None:
    assert ServiceId.parse(str(service)) == service
    assert str(service) == f"{service.unversioned}.{service.version}"


@pytest.mark.parametrize(
    "text",
    ["", "a", "a.B", "a..v1", ".B.v1", "a.B.", "a.B.v 1", "a.B.v1\n", "a/b.C.v1", "ä.B.v1", "a." * MAX_NAME + "v1"],
)
def test_what_is_no_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CallerError, match="not a service id") as caught:
        ServiceId.parse(text)
    assert caught.value.hint


@given(calls)
def test_a_call_survives_the_wire_with_the_time_that_remains(call: Call) -> None:
    there = decode_call(encode_call(call))
    assert there.deadline == pytest.approx(call.deadline, abs=0.5)
    for field in set(Call.__struct_fields__) - {"deadline"}:
        assert getattr(there, field) == getattr(call, field)


@given(st.binary(max_size=60))
def test_what_is_no_call_is_refused(data: bytes) -> None:
    try:
        decode_call(data)
    except CallerError:
        pass
