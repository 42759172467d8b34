from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import aclosing

import httpx
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from insula.errors import CallerError, Code, ConfigurationError, InsulaError, UnavailableError
from insula.packages.objects import read_object


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real S3 API on a free port, with one object in it."""
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    httpx.put(f"{url}/packages").raise_for_status()
    store = S3Store(
        "packages",
        endpoint=url,
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    obstore.put(store, "team/x y.okra.pkg", b"package" * 500_000)
    yield url
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "hunter2hunter2",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    return "packages"


async def read(bucket: str, key: str, max_bytes: int = 4 << 20, timeout: float = 10) -> bytes:
    async with aclosing(read_object(bucket, key, timeout=timeout, max_bytes=max_bytes)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_reads_an_object(bucket: str) -> None:
    assert await read(bucket, "team/x y.okra.pkg") == b"package" * 500_000


async def test_what_is_not_there(bucket: str) -> None:
    for name, key in ((bucket, "nothing.okra.pkg"), ("no-such-bucket", "x.okra.pkg")):
        with pytest.raises(CallerError, match=f"there is no s3://{name}/{key}") as refused:
            await read(name, key)
        assert refused.value.http_status == 404


async def test_too_large_is_told_before_it_is_read(bucket: str) -> None:
    with pytest.raises(CallerError, match="larger than 1 MiB") as refused:
        await read(bucket, "team/x y.okra.pkg", max_bytes=1 << 20)
    assert refused.value.http_status == 413


@pytest.mark.parametrize("name", ["", "a", "UPPER", "x/../y", "evil.com#", "a..b", "-x-", "a" * 64])
async def test_what_is_no_bucket(name: str) -> None:
    with pytest.raises(CallerError, match="is not the name of a bucket"):
        await read(name, "x")


@pytest.mark.parametrize("key", ["", "k" * 1025, "../../x", "a//b", "x\0y"])
async def test_what_is_no_key(bucket: str, key: str) -> None:
    with pytest.raises(InsulaError) as refused:
        await read(bucket, key)
    assert refused.value.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)


async def test_nobody_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="did not answer") as refused:
        await read(bucket, "x", timeout=0.5)
    assert "hunter2" not in str(refused.value)


async def test_without_the_extra(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(ConfigurationError) as refused:
        await read(bucket, "x")
    assert refused.value.hint == "pip install 'insula[s3]'"
