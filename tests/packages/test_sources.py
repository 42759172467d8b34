from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from insula.errors import CallerError, Code, DeadlineError, InsulaError, PackageError
from insula.kinds.okra import OkraKind
from insula.packages.depot import Depot
from insula.packages.sources import SourceOptions, Sources
from tests.packages.archives import honest, package
from tests.packages.web import Web, body, make_certificate, serving


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return package(honest(tmp_path))


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    folder = tmp_path / "some where"
    folder.mkdir()
    (folder / "x%y.okra.pkg").write_bytes(data)
    return folder / "x%y.okra.pkg"


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot", [OkraKind()])


@pytest.mark.parametrize("scheme", ["file://", "FILE://", "file://localhost", "file:"])
async def test_a_file(depot: Depot, file: Path, scheme: str) -> None:
    found = await Sources(depot).fetch(scheme + str(file).replace("%", "%25").replace(" ", "%20"))
    assert str(found.service_id) == "demo.Greeter.v1"


async def test_what_is_in_the_depot_already(depot: Depot, file: Path) -> None:
    found = await depot.add(file)
    for source in (f"depot:sha256:{found.digest}", f"Depot:SHA256:{found.digest.upper()}"):
        assert await Sources(depot).fetch(source) == found
    with pytest.raises(CallerError) as refused:
        await Sources(depot).fetch(f"depot:sha256:{'0' * 64}")
    assert refused.value.http_status == 404


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        ("", "the source is empty", "file:///path"),
        ("x.okra.pkg", "is not an address of a package", "file:///path"),
        ("/opt/x.okra.pkg", "is not an address of a package", "write file:///opt/x.okra.pkg"),
        ("C:\\x.okra.pkg", "is not an address of a package", "file:///path"),
        ("ftp://host/x", "packages do not come from ftp:", "https://host/path"),
        ("flie:///x", "packages do not come from flie:", "did you mean file:?"),
        ("file://server/share/x", "file://server is another machine", "three slashes"),
        ("file://x.okra.pkg", "is another machine", "three slashes"),
        ("file:x.okra.pkg", "is not an absolute path", "file:///path"),
        ("file:///x?y", "has no ? or #", "%3F"),
        ("file:///%ff", "is not UTF-8", ""),
        ("file:///a%00b", "is not an absolute path", ""),
        ("depot:x", "names no package", "depot:sha256:"),
        ("depot:sha256:../../etc", "names no package", "depot:sha256:"),
        ("s3://bucket", "names a bucket and no object", "s3://bucket/"),
        ("s3://BAD!/x", "is not the name of a bucket", ""),
        ("https://127.0.0.1/x", "this machine or a private network", "upload"),
        ("http://example.com/x", "plain http is not allowed", "upload"),
        ("https://", "is not an address", "https://host/path"),
        ("https:x", "address", ""),
        ("x" * 5000, "at most 4096 characters", ""),
    ],
)
async def test_refuses(depot: Depot, source: str, said: str, hint: str) -> None:
    with pytest.raises(CallerError) as refused:
        await Sources(depot).fetch(source)
    assert said in refused.value.message
    assert hint in (refused.value.hint or "")


async def test_roots(depot: Depot, file: Path, tmp_path: Path) -> None:
    source = file.as_uri()
    assert await Sources(depot, SourceOptions(roots=(tmp_path,))).fetch(source)
    for roots in ((), (tmp_path / "else",)):
        with pytest.raises(CallerError, match="does not lie below") as refused:
            await Sources(depot, SourceOptions(roots=roots)).fetch(source)
        assert refused.value.code is Code.PERMISSION_DENIED


async def test_a_file_that_is_none(depot: Depot, tmp_path: Path) -> None:
    sources = Sources(depot)
    with pytest.raises(CallerError, match="there is no file") as refused:
        await sources.fetch((tmp_path / "nothing").as_uri())
    assert refused.value.http_status == 404
    with pytest.raises(CallerError, match="not a plain file"):
        await sources.fetch(tmp_path.as_uri())
    (tmp_path / "empty").touch()
    with pytest.raises(PackageError, match="the package is empty"):
        await sources.fetch((tmp_path / "empty").as_uri())


async def test_the_size_is_bounded(depot: Depot, file: Path) -> None:
    with pytest.raises(CallerError, match="larger than 500 bytes") as refused:
        await Sources(depot, SourceOptions(max_bytes=500)).fetch(file.as_uri())
    assert refused.value.http_status == 413


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    make_certificate(tmp_path / "cert.pem", "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with serving(tmp_path / "cert.pem") as web:
        yield web


async def test_https_where_the_operator_allows_the_address(depot: Depot, data: bytes, secure: Web) -> None:
    secure.answers["/x.okra.pkg"] = body(data)
    sources = Sources(depot, SourceOptions(allow_private=True))
    found = await sources.fetch(secure.url("/x.okra.pkg").replace("https", "HTTPS"))
    assert found == await depot.get(found.digest)
    with pytest.raises(CallerError, match="has no such package"):
        await sources.fetch(secure.url("/other"))
    with pytest.raises(CallerError, match="private network"):
        await Sources(depot).fetch(secure.url("/x.okra.pkg"))


async def test_http_where_the_operator_allows_it(depot: Depot, data: bytes) -> None:
    with serving() as web:
        web.answers["/x.okra.pkg"] = body(data)
        found = await Sources(depot, SourceOptions(allow_private=True, allow_http=True)).fetch(web.url("/x.okra.pkg"))
        assert found.parts.config.name == "Greeter"
        web.answers["/page"] = body(b"<!doctype html>")
        with pytest.raises(PackageError, match="not a gzip file"):
            await Sources(depot, SourceOptions(allow_private=True, allow_http=True)).fetch(web.url("/page"))


async def test_a_server_that_drips_is_left_at_the_deadline(depot: Depot, data: bytes, tmp_path: Path) -> None:
    over = threading.Event()

    def drips(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not over.wait(0.02):
            request.wfile.write(data[:1])

    with serving() as web:
        web.answers["/x"] = drips
        options = SourceOptions(allow_private=True, allow_http=True, timeout=0.3)
        with pytest.raises(DeadlineError, match=r"did not come within 0\.3 s"):
            await Sources(depot, options).fetch(web.url("/x"))
        over.set()
    assert list((tmp_path / "depot" / "incoming").iterdir()) == []


async def test_many_at_once(depot: Depot, file: Path) -> None:
    sources = Sources(depot)
    found = await asyncio.gather(*(sources.fetch(file.as_uri()) for _ in range(8)))
    assert all(one == found[0] for one in found)


async def test_every_refusal_is_one_of_ours(depot: Depot) -> None:
    for source in ("file:///dev/zero", "file:///proc/self/mem", "file:////", "https://[::1]:99999/", "s3:///", "http:"):
        with pytest.raises(InsulaError):
            await Sources(depot).fetch(source)
