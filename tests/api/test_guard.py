"""A web page cannot call the admin port, whatever its site is called."""

from __future__ import annotations

import pytest

from insula.api.guard import check
from insula.settings import Secret


def refused(method: str = "POST", path: str = "/api/v1/packages", **headers: str) -> bool:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return check(None, method, path, pairs) is not None


@pytest.mark.parametrize("host", ["127.0.0.1:8081", "localhost:8081", "LOCALHOST", "[::1]:8081", "127.9.9.9"])
def test_programs_of_this_machine_may(host: str) -> None:
    assert not refused(host=host)
    assert not refused(host=host, origin=f"http://{host}", sec_fetch_site="same-origin")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5:8081", "[::1", "127.0.0.1:x"],
)
def test_a_bent_name_may_not(host: str) -> None:
    assert refused(host=host)
    assert refused("GET", host=host)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
        "https://127.0.0.1:8081",
        "http://127.0.0.1:3000",
        "",
    ],
)
def test_a_page_of_another_origin_may_not(origin: str) -> None:
    assert refused(host="127.0.0.1:8081", origin=origin)
    assert refused("GET", host="127.0.0.1:8081", origin=origin)


def test_a_cross_site_form_may_not_even_without_an_origin() -> None:
    assert refused(host="127.0.0.1:8081", sec_fetch_site="cross-site")
    assert refused("DELETE", host="127.0.0.1:8081", sec_fetch_site="same-site")
    assert not refused("GET", host="127.0.0.1:8081", sec_fetch_site="cross-site")


def test_no_host_or_two_are_refused() -> None:
    assert refused()
    pairs = [(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")]
    assert check(None, "GET", "/", pairs) is not None


def test_two_authorizations_are_refused() -> None:
    pairs = [(b"authorization", b"Bearer x"), (b"authorization", b"Bearer y")]
    assert check(Secret("x"), "GET", "/", pairs) is not None
    assert check(Secret("x"), "GET", "/", pairs[:1]) is None
