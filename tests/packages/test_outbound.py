from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from insula.errors import CallerError, Code, InsulaError, UnavailableError
from insula.packages import outbound
from tests.packages.web import Web, body, make_certificate, serving, status


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    make_certificate(tmp_path / "cert.pem", "localhost", "packages.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with serving(tmp_path / "cert.pem") as web:
        yield web


async def fetch(
    url: str, *, private: bool = True, http: bool = True, max_bytes: int = 1 << 20, timeout: float = 10
) -> bytes:
    async with (
        outbound.get(url, allow_private=private, allow_http=http, timeout=timeout) as response,
        aclosing(outbound.body(response, max_bytes)) as chunks,
    ):
        return b"".join([chunk async for chunk in chunks])


class Names:
    """A resolver in which a test decides what a name's addresses are, and counts who asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[str]) -> None:
        self.asked: list[str] = []
        real = asyncio.BaseEventLoop.getaddrinfo

        async def getaddrinfo(loop: asyncio.BaseEventLoop, host: Any, port: Any, **more: Any) -> Any:
            self.asked.append(str(host))
            known = answers.get(str(host).split(".")[0])
            if known is None:
                return await real(loop, host, port, **more)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_addresses(address: str) -> None:
    assert outbound.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "203.0.113.5",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "2001:0:a::1",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not outbound.is_public(ipaddress.ip_address(address))


async def test_fetches_over_http_and_https(web: Web, secure: Web) -> None:
    for server in (web, secure):
        server.answers["/p"] = body(b"package" * 100_000)
        assert await fetch(server.url("/p"), max_bytes=700_000) == b"package" * 100_000
        assert server.seen == [f"localhost:{server.port} /p"]


async def test_what_is_packed_already_is_not_unpacked_on_the_way(web: Web) -> None:
    web.answers["/p"] = body(b"\x1f\x8bpackage", content_encoding="gzip")
    assert await fetch(web.url("/p")) == b"\x1f\x8bpackage"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
    ],
)
async def test_private_addresses_are_refused_unasked(web: Web, host: str) -> None:
    with pytest.raises(CallerError, match="this machine or a private network") as refused:
        await fetch(web.url("/p", host), private=False)
    assert (refused.value.code, refused.value.reason) == (Code.PERMISSION_DENIED, "address_refused")
    assert web.seen == []


async def test_one_private_address_among_others_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, packages=["8.8.8.8", "127.0.0.1"])
    with pytest.raises(CallerError, match="private network"):
        await fetch(web.url("/p", "packages.test"), private=False)


async def test_the_checked_address_is_the_one_that_is_asked(secure: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once; the certificate is still asked for by the name."""
    names = Names(monkeypatch, packages=["127.0.0.1"], other=["127.0.0.1"])
    secure.answers["/p"] = body(b"package")
    assert await fetch(secure.url("/p", "packages.test")) == b"package"
    assert names.asked.count("packages.test") == 1
    assert secure.seen == [f"packages.test:{secure.port} /p"]
    with pytest.raises(UnavailableError, match=r"other\.test cannot be reached: its certificate is refused"):
        await fetch(secure.url("/p", "other.test"))


async def test_a_second_address_is_tried(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, packages=["127.0.0.9", "127.0.0.1"])
    web.answers["/p"] = body(b"package")
    assert await fetch(web.url("/p", "packages.test")) == b"package"


async def test_an_unknown_certificate_is_refused(secure: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UnavailableError, match="its certificate is refused"):
        await fetch(secure.url("/p"))


async def test_http_needs_the_operators_leave(web: Web) -> None:
    with pytest.raises(CallerError, match="plain http is not allowed"):
        await fetch(web.url("/p"), http=False)


async def test_redirects_are_followed_by_the_same_rules(web: Web, secure: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answers |= {"/a": status(302, location="/b"), "/b": status(307, location=secure.url("/p"))}
    secure.answers |= {"/p": body(b"package"), "/down": status(302, location=web.url("/p"))}
    assert await fetch(web.url("/a")) == b"package"
    with pytest.raises(CallerError, match="redirects from https to http"):
        await fetch(secure.url("/down"))
    web.answers["/out"] = status(302, location="http://127.0.0.2/latest/meta-data")
    monkeypatch.setattr(outbound, "is_public", lambda address: str(address) == "127.0.0.1")
    with pytest.raises(CallerError, match=r"127\.0\.0\.2 is an address of this machine"):
        await fetch(web.url("/out", "127.0.0.1"), private=False)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/y", "http://[", "//user:hunter2@host/"])
async def test_redirects_to_what_is_no_address(web: Web, location: str) -> None:
    web.answers["/a"] = status(302, location=location)
    with pytest.raises(InsulaError, match="address") as refused:
        await fetch(web.url("/a"))
    assert "hunter2" not in str(refused.value)


async def test_redirects_end(web: Web) -> None:
    web.answers["/a"] = status(302, location="/a")
    with pytest.raises(UnavailableError, match="redirects more than 5 times"):
        await fetch(web.url("/a"))
    assert len(web.seen) == 6


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (status(404), CallerError, "has no such package"),
        (status(403), CallerError, "answered 403 and no package"),
        (status(500), UnavailableError, "answered 500"),
        (status(429), UnavailableError, "answered 429"),
        (status(204), CallerError, "answered 204 and no package"),
        (body(b"x", content_length="9"), UnavailableError, "broke off"),
        (body(b"x", content_length="1048577"), CallerError, "larger than 1 MiB"),
    ],
)
async def test_other_answers(web: Web, answer: Any, error: type[InsulaError], said: str) -> None:
    web.answers["/p"] = answer
    with pytest.raises(error, match=said):
        await fetch(web.url("/p"))


async def test_a_server_that_never_answers(web: Web) -> None:
    over = threading.Event()

    def silent(_: BaseHTTPRequestHandler) -> None:
        over.wait(10)

    web.answers["/p"] = silent
    with pytest.raises(UnavailableError, match="did not answer: ReadTimeout"):
        await fetch(web.url("/p"), timeout=0.2)
    over.set()


async def test_nobody_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await fetch(f"http://127.0.0.1:{held.getsockname()[1]}/")
    with pytest.raises(UnavailableError, match="has no address"):
        await fetch("https://no-such-name.invalid/")


@pytest.mark.parametrize(
    "url", ["https://", "https:///x", "https://[", "https://h:99999999/", "gopher://h/", "https://\n/"]
)
async def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InsulaError, match="address"):
        await fetch(url)


async def test_no_secrets_in_an_address() -> None:
    with pytest.raises(CallerError, match="holds a user or password") as refused:
        await fetch("https://me:hunter2@example.com/p")
    assert "hunter2" not in str(refused.value)


async def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    web.answers["/p"] = body(b"package")
    assert await fetch(web.url("/p")) == b"package"
