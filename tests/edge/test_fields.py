"""Header fields: what passes can be sent, and what cannot be sent does not pass."""

from __future__ import annotations

import httptools
from hypothesis import given
from hypothesis import strategies as st

from insula.edge.fields import MAX_FIELDS, fault


class Reader:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=6), st.binary(max_size=6)), max_size=4))
def test_what_passes_is_read_back_as_it_was(fields: list[tuple[bytes, bytes]]) -> None:
    if fault(fields) is None:
        reader = Reader()
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        httptools.HttpResponseParser(reader).feed_data(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")
        assert reader.fields == fields


def test_the_fault_names_the_header_and_never_its_value() -> None:
    for fields in ([(b"x-a", b"secret\r\n")], [(b"Content-Length", b"secret")], [(b"x-a", b"secret" * MAX_FIELDS)]):
        told = fault(fields)
        assert told is not None
        assert fields[0][0].decode() in told
        assert "secret" not in told
