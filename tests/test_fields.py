"""Header fields: what passes can be sent, and what cannot be sent does not pass."""

from __future__ import annotations

import httptools
from hypothesis import given
from hypothesis import strategies as st

from insula.fields import MAX_BYTES, MAX_FIELDS, MAX_NAME, MAX_PAIRS, MAX_VALUE, OWNED, fault, fit, guest_fault


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


#: Every name that either side has ever had a reason to refuse.
NAMES = sorted(
    {name.decode() for name in OWNED}
    | {"content-language", "content-disposition", "set-cookie2", "x-content-type-options", "x-frame-options", "sec-a"}
    | {"link", "via", "age", "nel", "origin", "x-forwarded-for", "insula-a", "retry-after", "trailer-x", "proxy-a"}
)


def test_a_name_of_the_servers_is_no_guests() -> None:
    assert not [name for name in NAMES if guest_fault(name, "x") is None]


def test_whatever_fits_a_guest_fits_an_answer() -> None:
    pairs = [("x" * MAX_NAME, "v" * 100)] * MAX_PAIRS
    assert not fit(pairs, [])
    for count in range(MAX_PAIRS):
        if fit((), pairs[:count]):
            sent = [(b"trailer-" + name.encode(), value.encode()) for name, value in pairs[:count]]
            assert sum(len(name) + len(value) + 4 for name, value in sent) <= MAX_BYTES < MAX_FIELDS
            assert fault(sent) is None
    assert MAX_VALUE < MAX_BYTES
