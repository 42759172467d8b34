"""The admin port of a whole server against web pages, strangers, and addresses that lead inside."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from insula import examples
from tests.packages.web import body, serving, status
from tests.running import Process, process

TOKEN = "correct-horse-battery-staple"
PACKAGES = "/api/v1/packages"


def asked(server: Process, *fields: bytes, target: bytes = b"/api/v1/packages") -> int:
    """The status that a head with these fields gets, as bytes."""
    host, port = server.admin_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"\r\n".join((b"GET %b HTTP/1.1" % target, *fields, b"Connection: close", b"", b"")))
        said = b""
        while piece := connection.recv(65536):
            said += piece
    return int(said.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def open_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server without a token."""
    with process(tmp_path_factory.mktemp("open")) as server:
        yield server


def test_only_names_of_this_machine_are_answered(open_port: Process) -> None:
    port = open_port.admin_url.rpartition(":")[2].encode()
    good = (
        b"127.0.0.1:%b" % port,
        b"LOCALHOST:%b" % port,
        b"localhost.:%b" % port,
        b"LocalHost",
        b"[::1]:1",
        b"127.0.0.2",
    )
    bad = (
        *(b"evil.example", b"localhost.evil.example", b"127.0.0.1.nip.example", b"localhost@evil.example", b"127.1"),
        *(b"evil.example@localhost", b"user:password@127.0.0.1", b"2130706433", b"0x7f.1", b"0.0.0.0", b"[::]"),
        *(
            b"[::ffff:127.0.0.1]",
            b"localhost:80:80",
            b"localhost:999999",
            b"localhost, evil.example",
            b"localhost evil",
            b"",
        ),
        *(b"localhost%00", b"127.0.0.1/x", b"loc\xc3\xa4lhost"),
    )
    for hosts, wanted in ((good, 200), (bad, 403)):
        for host in hosts:
            assert asked(open_port, b"Host: " + host) == wanted, host
    assert asked(open_port, b"Host: localhost", b"Host: evil.example") == 400


def test_only_pages_of_this_very_port_are_answered(open_port: Process) -> None:
    own = open_port.admin_url.encode()
    host = b"Host: " + own.removeprefix(b"http://")
    for origin in (own, own.upper()):
        assert asked(open_port, host, b"Origin: " + origin) == 200
    port = own.rpartition(b":")[2]
    for origin in (
        *(
            b"null",
            b"NULL",
            b"",
            b"http://evil.example",
            b"file://",
            own + b".evil.example",
            own + b" http://evil.example",
        ),
        *(b"http://127.0.0.1", b"http://127.0.0.1:1", b"https://127.0.0.1:" + port, b"http://localhost:" + port),
    ):
        assert asked(open_port, host, b"Origin: " + origin) == 403, origin
    assert asked(open_port, host, b"Origin: " + own, b"Origin: http://evil.example") == 403
    for site, wanted in ((b"none", 200), (b"same-origin", 200), (b"same-site", 403), (b"cross-site", 403), (b"", 403)):
        assert asked(open_port, host, b"Sec-Fetch-Site: " + site) == wanted, site
    assert asked(open_port, host, b"Sec-Fetch-Site: same-origin", b"sec-fetch-site: cross-site") == 403


def test_a_token_is_not_guessed_from_answers_and_is_told_to_nobody(tmp_path: Path) -> None:
    host, token = b"Host: any.example", TOKEN.encode()
    environ = {"INSULA_ADMIN__TOKEN": TOKEN}
    with process(tmp_path, "--log-level", "debug", environ=environ) as server:
        assert asked(server, host, b"Authorization: Bearer " + token) == 200
        for value in (
            *(b"", b"Bearer", b"Bearer ", b"Bearer " + token[:-1], b"Bearer " + token + b"x", b"Basic " + token, token),
            *(
                b"Bearer " + token.upper(),
                b"Bearer \xff\xfe",
                b"Bearer " + b"a" * 30_000,
                b"Bearer " + token + b"," + token,
            ),
        ):
            assert asked(server, host, b"Authorization: " + value) == 401, value
        assert asked(server, host, b"Authorization: Bearer x", b"Authorization: Bearer " + token) == 401
        assert asked(server, host, b"Cookie: token=" + token) == 401
        assert asked(server, host, target=b"/api/v1/packages?token=" + token) == 401
        for path in (
            b"/",
            b"/metrics",
            b"/api/v1/health/",
            b"//api/v1/health",
            b"/api/v1/health%2f..%2fpackages",
            b"/none",
        ):
            assert asked(server, host, target=path) == 401, path
        answers = {
            httpx.get(f"{server.admin_url}{path}", headers={"authorization": f"Bearer {wrong}"}).text
            for path in (PACKAGES, f"{PACKAGES}/a.B.v1", "/none")
            for wrong in ("x", TOKEN[:-1], TOKEN + "x", "y" * len(TOKEN))
        }
        assert len(answers) == 1  # of what is there, and of how near a guess came, nothing is told
        assert TOKEN not in answers.pop()
        assert server.end() == 0
    assert TOKEN not in server.log.read_text()


INSIDE = (
    *("127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0", "127。0。0。1"),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ),
    *(
        "169.254.169.254",
        "2852039166",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "198.18.0.1",
        "224.0.0.1",
    ),
)


def test_no_source_leads_inside(tmp_path: Path) -> None:
    """Plain http is allowed, since no stranger's certificate is to be had here; the rules of addresses are the same."""
    (tmp_path / "c.toml").write_text("[sources]\nallow_http = true\n")
    with serving() as web, process(tmp_path, "--config", "c.toml") as server, httpx.Client(timeout=60) as client:
        for host in INSIDE:
            source = {"source": f"http://{host}:{web.port}/x"}
            answer = client.post(f"{server.admin_url}{PACKAGES}/deploy", json=source)
            assert (answer.status_code, answer.json().get("reason")) == (403, "address_refused"), (host, answer.text)
        for odd in (
            f"http://a@127.0.0.1:{web.port}/",
            f"http:/127.0.0.1:{web.port}/",
            f"gopher://127.0.0.1:{web.port}/",
        ):
            assert client.post(f"{server.admin_url}{PACKAGES}/deploy", json={"source": odd}).status_code == 400, odd
        assert web.seen == []
        assert server.end() == 0


def test_redirects_lead_nowhere_else_and_end(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "[sources]\nallow_http = true\nallow_private = true\n[packages]\nread_timeout_ms = 1500\n"
    )
    with serving() as web, process(tmp_path, "--config", "c.toml") as server, httpx.Client(timeout=60) as client:
        web.answers["/file"] = status(302, location="file:///etc/passwd")
        web.answers["/circle"] = status(307, location="/circle")
        web.answers["/long"] = status(302, location="http://" + "a" * 300 + ".example/")
        web.answers["/bomb"] = body(b"x", content_length=str(1 << 40))
        web.answers["/words"] = body(b"no package")
        for path, code in (("file", 400), ("circle", 503), ("long", 503), ("bomb", 413), ("words", 400), ("none", 404)):
            answer = client.post(f"{server.admin_url}{PACKAGES}/deploy", json={"source": web.url(f"/{path}")})
            assert answer.status_code == code, (path, answer.text)
            assert "root:" not in answer.text
        assert web.seen.count(f"localhost:{web.port} /circle") <= 10
        assert server.end() == 0


def test_roots_hold_whatever_a_path_says(tmp_path: Path) -> None:
    package = examples.find("greeter")
    assert package is not None
    roots, secret = tmp_path / "roots", tmp_path / "secret"
    for folder in (roots, secret):
        folder.mkdir()
        shutil.copy(package, folder / "g.okra.pkg")
    (roots / "link.okra.pkg").symlink_to(secret / "g.okra.pkg")
    (roots / "folder").symlink_to(secret)
    (roots / "inner.okra.pkg").symlink_to(roots / "g.okra.pkg")
    os.mkfifo(roots / "fifo")
    (tmp_path / "c.toml").write_text(f'[sources]\nroots = ["{roots}"]\n')
    with process(tmp_path, "--config", "c.toml") as server, httpx.Client(timeout=60) as client:
        for path, code in (
            *((f"{secret}/g.okra.pkg", 403), (f"{secret}/none", 403), (f"{roots}/../secret/g.okra.pkg", 403)),
            *((f"{roots}/%2e%2e/secret/g.okra.pkg", 403), (f"{roots}/link.okra.pkg", 403), ("/etc/passwd", 403)),
            *((f"{roots}/folder/g.okra.pkg", 403), (f"{roots}x/g.okra.pkg", 403), ("/proc/self/environ", 403)),
            *((f"{roots}/fifo", 400), (f"{roots}", 400), (f"{roots}/none", 404), (f"{roots}/inner.okra.pkg", 200)),
        ):
            source = {"source": f"file://{path}", "override": True}
            answer = client.post(f"{server.admin_url}{PACKAGES}/deploy", json=source)
            assert answer.status_code == code, (path, answer.text)
        assert server.end() == 0
