"""Which requests a page of another site can make, and that none of them is let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.edge.exchange import Head
from insula.edge.local import check_host, check_origin, check_token
from insula.errors import Code

HOST = (b"host", b"127.0.0.1:8081")


def head(*headers: tuple[bytes, bytes]) -> Head:
    return Head("GET", b"/", b"", list(headers))


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1:8081", b"localhost:8081", b"LocalHost:8081", b"localhost.:8081", b"[::1]:8081", b"127.8.8.8:8081"],
)
def test_this_machine_by_name_or_address(host: bytes) -> None:
    assert check_host(head((b"host", host))) is None


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b""],
        [b"evil.example:8081"],
        [b"localhost.evil.example:8081"],
        [b"127.0.0.1.nip.io:8081"],
        [b"evil.example"],
        [b"0.0.0.0:8081"],
        [b"[::]:8081"],
        [b"192.168.1.5:8081"],
        [b"user@127.0.0.1:8081"],
        [b"127.0.0.1:8081@evil.example"],
        [b"127.0.0.1:8081/x"],
        [b"127.0.0.1:08081x"],
        [b"127.0.0.1:8081, evil.example"],
        [b"127.0.0.1:8081", b"evil.example"],
        [b"2130706433:8081"],
        [b"loc\xe4lhost:8081"],
    ],
)
def test_another_name_is_refused(hosts: list[bytes]) -> None:
    refusal = check_host(head(*((b"host", host) for host in hosts)))
    assert refusal is not None
    assert (refusal.code, refusal.http_status) == (Code.PERMISSION_DENIED, 403)


def test_a_forwarded_port_is_this_port_too() -> None:
    for host in (b"localhost", b"localhost:9000"):
        assert check_host(head((b"host", host))) is None
        assert check_origin(head((b"host", host), (b"origin", b"http://" + host))) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"origin", b"http://127.0.0.1:8081")],
        [(b"origin", b"HTTP://127.0.0.1:8081"), (b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"none")],
    ],
)
def test_programs_and_our_own_pages(headers: list[tuple[bytes, bytes]]) -> None:
    assert check_origin(head(HOST, *headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"origin", b"http://evil.example")],
        [(b"origin", b"http://localhost.evil.example:8081")],
        [(b"origin", b"null")],
        [(b"origin", b"")],
        [(b"origin", b"http://127.0.0.1:8080")],
        [(b"origin", b"http://127.0.0.1")],
        [(b"origin", b"http://localhost:3000")],
        [(b"origin", b"https://127.0.0.1:8081")],
        [(b"origin", b"file://")],
        [(b"origin", b"http://127.0.0.1:8081"), (b"origin", b"http://evil.example")],
        [(b"origin", b"http://127.0.0.1:8081"), (b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],
    ],
)
def test_pages_of_others(headers: list[tuple[bytes, bytes]]) -> None:
    refusal = check_origin(head(HOST, *headers))
    assert refusal is not None
    assert refusal.code is Code.PERMISSION_DENIED


@given(st.binary(max_size=40))
def test_any_header_is_let_in_or_refused(value: bytes) -> None:
    for name in (b"host", b"origin", b"sec-fetch-site", b"authorization"):
        check_host(head((name, value)))
        check_origin(head((name, value)))
        check_token(head((name, value)), "token")


def test_a_token() -> None:
    assert check_token(head((b"authorization", b"Bearer right")), "right") is None
    assert check_token(head((b"authorization", b"bearer  right ")), "right") is None
    for wrong in ([], [b"Bearer wrong"], [b"Basic right"], [b"right"], [b"Bearer"], [b"Bearer right", b"Bearer right"]):
        refusal = check_token(head(*((b"authorization", value) for value in wrong)), "right")
        assert refusal is not None
        assert refusal.code is Code.UNAUTHENTICATED
        assert "right" not in str(refusal)
