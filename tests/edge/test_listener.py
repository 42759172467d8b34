"""Listeners: ports in use, several in one loop, an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import pytest

from insula.edge.exchange import Response
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.errors import ConfigurationError
from tests.edge.conftest import ROADS, Probe, answers, probe_app, statuses, street, turns, until

pytestmark = ROADS


def test_a_port_in_use_is_one_line_with_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            bind("127.0.0.1", port, "--admin-port")
    text = str(raised.value)
    assert str(port) in text
    assert "--admin-port" in text
    assert "\n" not in text
    assert raised.value.__cause__ is None


def test_a_port_that_another_listener_holds_is_in_use() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ConfigurationError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("no such host", 0), ("a" * 100, 0), ("192.0.2.1", 0)]
)
def test_what_cannot_be_listened_on_is_said(host: str, port: int) -> None:
    with pytest.raises(ConfigurationError, match="--port"):
        bind(host, port)


async def test_several_listeners_share_a_loop() -> None:
    async with street() as one, street() as two:
        request = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert statuses(await one.talk(request)) == statuses(await two.talk(request)) == [200]
        assert (len(one.probe.heads), len(two.probe.heads)) == (1, 1)


async def test_urls() -> None:
    listener = Listener(probe_app(Probe()), bind("0.0.0.0", 0))
    assert listener.url == f"http://127.0.0.1:{listener.port}"
    await listener.stop(0)


async def test_a_stop_lets_requests_finish_and_ends_idle_connections() -> None:
    async with street(ConnectionLimits(keep_alive_timeout=30, first_byte_timeout=30)) as here:
        idle, idle_writer = await here.connect()
        idle_writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.readuntil(b"\r\n\r\n")
        silent, silent_writer = await here.connect()
        busy, busy_writer = await here.connect()
        busy_writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        stopping = asyncio.create_task(here.listener.stop(5))
        assert await idle.read() == b""
        assert await silent.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await here.connect()
        assert not stopping.done()
        here.probe.pending[0].set_result(Response(200, (), b"done"))
        [(status, headers, body)] = answers(await busy.read())
        assert (status, headers[b"connection"], body) == (200, b"close", b"done")
        await stopping
        assert here.listener.connections == 0
        for writer in (idle_writer, silent_writer, busy_writer):
            writer.close()


async def test_a_body_that_is_on_its_way_may_still_come() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        await until(lambda: here.app.metrics.in_flight)
        stopping = asyncio.create_task(here.listener.stop(5))
        await turns()  # the stop has begun
        writer.write(b"llo" + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [body for _, _, body in answers(await reader.read())] == [b"hello"]
        await stopping
        writer.close()


async def test_after_its_grace_a_request_gets_a_whole_503(caplog: pytest.LogCaptureFixture) -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        with caplog.at_level(logging.ERROR):
            await here.listener.stop(0.01)
        [(status, headers, _)] = answers(await reader.read())
        assert (status, headers[b"connection"], headers[b"retry-after"]) == (503, b"close", b"1")
        assert here.probe.pending[0].cancelled()
        assert caplog.text == ""
        writer.close()


BIG = b"GET /echo?big=20000000 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_client_that_does_not_take_its_answers_ends_with_the_stop(
    hurried: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insula.edge.listener.LAST_ANSWERS", 0.1)
    async with street(ConnectionLimits(write_timeout=60.0)) as here:
        clients = [await here.connect() for _ in range(3)]
        for _, writer in clients:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(BIG * 2)  # the second answer waits until the first is taken
        await until(lambda: len(here.probe.heads) == 6)
        with caplog.at_level(logging.ERROR):
            await asyncio.gather(*(here.listener.stop(0.0) for _ in range(1 + hurried)))
            await until(lambda: here.listener.connections == here.app.metrics.in_flight == 0)
            await turns()  # the tasks end
        assert caplog.text == ""
        assert here.app.metrics.routes["/echo"].by_status() == {200: 6}
        for _, writer in clients:
            writer.transport.abort()


async def test_a_client_that_takes_its_answers_after_the_grace_gets_them_whole(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insula.edge.listener.LAST_ANSWERS", 30.0)
    async with street(ConnectionLimits(write_timeout=60.0, linger=0.1)) as here:
        reader, writer = await here.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(BIG * 2)
        await until(lambda: len(here.probe.heads) == 2)
        stopping = asyncio.create_task(here.listener.stop(0.0))
        await until(lambda: "were cut off by the stop" in caplog.text)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert [len(body) for _, _, body in answers(await reader.read())] == [20_000_000, 20_000_000]
        await stopping
        assert "Exception" not in caplog.text
        writer.close()


async def test_an_answer_that_is_being_compressed_when_the_grace_is_over_goes_out_as_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insula.edge.app.COMPRESSED_WITHIN", 60.0)
    go = threading.Event()
    async with street() as here:
        threads = [here.app.offload.run(name, go.wait, 30) for name in ("other", "third") for _ in range(8)]
        reader, writer = await here.connect()
        writer.write(b"GET /echo?big=100000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        await until(lambda: here.probe.heads)
        with caplog.at_level(logging.ERROR):
            await here.listener.stop(0.0)
        [(status, headers, body)] = answers(await reader.read())
        assert (status, headers.get(b"content-encoding"), len(body)) == (200, None, 100_000)
        assert caplog.text == ""
        writer.close()
        go.set()
        await asyncio.gather(*threads)


async def test_a_second_stop_hurries_the_first() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        patient = asyncio.create_task(here.listener.stop(60))
        await turns()  # the stop has begun
        await here.listener.stop(0)
        async with asyncio.timeout(2):
            await patient
        assert statuses(await reader.read()) == [503]
        writer.close()


async def test_rounds_leave_no_descriptor_behind() -> None:
    import psutil

    process = psutil.Process()

    async def round_() -> None:
        async with street() as here:
            await here.talk(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    await round_()
    before = await asyncio.to_thread(process.num_fds)
    for _ in range(20):
        await round_()
    assert await asyncio.to_thread(process.num_fds) <= before


REQUEST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


async def test_clients_that_have_connected_and_sent_before_a_stop_are_answered() -> None:
    """They wait in the system's queue: the listener has not seen one of them yet."""
    async with street(ConnectionLimits(keep_alive_timeout=30, first_byte_timeout=30)) as here:
        clients = [socket.create_connection((here.listener.host, here.listener.port), timeout=5) for _ in range(100)]
        for client in clients:
            client.send(REQUEST)
        stopping = asyncio.create_task(here.listener.stop(5))
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            [(status, headers, body)] = answers(await reader.read())
            assert (status, headers[b"connection"], body) == (200, b"close", b"hi")
            writer.close()
        await stopping


async def test_a_client_that_sends_one_request_after_the_other_loses_none_to_a_stop() -> None:
    """Its next request is on its way when the listener ends what seems idle."""
    async with street(ConnectionLimits(keep_alive_timeout=30)) as here:
        reader, writer = await here.connect()
        writer.write(REQUEST)
        await reader.readuntil(b"hi")
        stopping = asyncio.create_task(here.listener.stop(5))
        await until(lambda: here.listener._sock.fileno() < 0)
        writer.write(REQUEST)
        [(status, headers, body)] = answers(await reader.read())
        assert (status, headers[b"connection"], body) == (200, b"close", b"hi")
        async with asyncio.timeout(2):
            await stopping
        writer.close()


async def test_a_client_that_has_been_quiet_for_a_while_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.connection.MOMENT", 0.0)
    async with street(ConnectionLimits(keep_alive_timeout=30)) as here:
        reader, writer = await here.connect()
        writer.write(REQUEST)
        await reader.readuntil(b"hi")
        await here.listener.stop(5)
        assert await reader.read() == b""
        writer.close()
