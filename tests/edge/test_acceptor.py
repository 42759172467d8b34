"""New connections: a bounded number in a turn, a system that is out of descriptors, and the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from insula.edge import acceptor as room
from insula.edge.acceptor import AT_ONCE, Acceptor
from insula.edge.listener import bind
from tests.edge.conftest import until


class Made(asyncio.Protocol):
    """Counts the connections of each turn of the loop."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._turns.made[self._turns.now] += 1
        self._turns.transports.append(transport)


class Turns:
    """Which turn of the loop it is."""

    def __init__(self) -> None:
        self.now = 0
        self.made: Counter[int] = Counter()
        self.transports: list[asyncio.BaseTransport] = []
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.now += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def close(self) -> None:
        self._handle.cancel()
        for transport in self.transports:
            transport.close()


@pytest.fixture
async def turns() -> Any:
    with closing(Turns()) as turns:
        yield turns


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(clients: ExitStack, sock: socket.socket, count: int = 1) -> list[socket.socket]:
    """Clients that are connected as far as the system is concerned."""
    return [clients.enter_context(socket.create_connection(sock.getsockname(), timeout=5)) for _ in range(count)]


async def test_a_turn_makes_a_bounded_number_of_connections(turns: Turns, clients: ExitStack) -> None:
    sock = bind("127.0.0.1", 0)
    connect(clients, sock, 500)
    acceptor = Acceptor(sock, lambda: Made(turns))
    await until(lambda: turns.made.total() == 500)
    assert max(turns.made.values()) <= AT_ONCE
    await acceptor.close()


async def test_a_turn_that_takes_its_time_is_over(
    turns: Turns, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where each system call has to wait for the interpreter."""
    monkeypatch.setattr(room, "BUDGET", 0.0)
    sock = bind("127.0.0.1", 0)
    connect(clients, sock, 20)
    acceptor = Acceptor(sock, lambda: Made(turns))
    await until(lambda: turns.made.total() == 20)
    assert max(turns.made.values()) <= 2  # sockets are read and callbacks run in one turn
    await acceptor.close()


class Poor:
    """A socket of a system that has no more descriptors; `rich` gives it some."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self._sock = sock
        self._error = error
        self.rich = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if not self.rich:
            raise OSError(self._error, "no")
        return self._sock.accept()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_where_the_system_has_no_descriptors_clients_wait(
    error: int, turns: Turns, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "PAUSE", 0.01)
    sock = Poor(bind("127.0.0.1", 0), error)
    connect(clients, sock)  # type: ignore[arg-type]
    acceptor = Acceptor(sock, lambda: Made(turns))  # type: ignore[arg-type]
    await until(lambda: sock.asked >= 3)
    assert turns.now > 2 * sock.asked, "the loop is not kept busy with it"
    sock.rich = True
    await until(lambda: turns.made.total() == 1)
    await acceptor.close()
    assert "ulimit -n" in caplog.text
    assert len(caplog.records) == 1, "said once for a while"


async def test_a_client_that_has_left_before_it_was_accepted_harms_nobody(turns: Turns, clients: ExitStack) -> None:
    sock = Poor(bind("127.0.0.1", 0), errno.ECONNABORTED)
    connect(clients, sock)  # type: ignore[arg-type]
    acceptor = Acceptor(sock, lambda: Made(turns))  # type: ignore[arg-type]
    await until(lambda: sock.asked)
    sock.rich = True
    await until(lambda: turns.made.total() == 1)
    await acceptor.close()


async def test_the_last_clients_are_accepted_before_the_socket_is_closed(turns: Turns, clients: ExitStack) -> None:
    sock = bind("127.0.0.1", 0)
    address = sock.getsockname()
    acceptor = Acceptor(sock, lambda: Made(turns))
    connect(clients, sock, 100)
    await acceptor.close()
    assert turns.made.total() == 100
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


async def test_nobody_connects_between_the_last_accept_and_the_close(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of that moment tries again a second later, and is refused then; it is not connected, and reset."""
    sock = bind("127.0.0.1", 0)
    acceptor = Acceptor(sock, lambda: Made(turns))
    seen: list[str] = []

    class Between:
        def __getattr__(self, name: str) -> Any:
            return getattr(sock, name)

        def close(self) -> None:
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex(sock.getsockname())
                try:
                    client.getpeername()  # within one machine a connection is made at once
                    seen.append("connected")
                except OSError:
                    seen.append("not connected")
            sock.close()

    monkeypatch.setattr(acceptor, "_sock", Between())
    await acceptor.close()
    assert seen == ["not connected"]


async def test_a_stop_without_descriptors_leaves_no_timer(
    turns: Turns, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PAUSE", 0.0)
    wrong: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    sock = Poor(bind("127.0.0.1", 0), errno.EMFILE)
    connect(clients, sock)  # type: ignore[arg-type]
    acceptor = Acceptor(sock, lambda: Made(turns))  # type: ignore[arg-type]
    await until(lambda: sock.asked)
    await acceptor.close()
    await until(lambda n=turns.now: turns.now > n + 5)  # type: ignore[misc]
    assert wrong == []


async def test_where_there_is_no_room_a_client_is_closed_at_once(turns: Turns, clients: ExitStack) -> None:
    """Also while those before it have no protocol yet."""
    sock = bind("127.0.0.1", 0)
    crowd = connect(clients, sock, 100)
    acceptor = Acceptor(sock, lambda: Made(turns), has_room=lambda under_way: turns.made.total() + under_way < 40)
    for client in crowd[40:]:
        client.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert turns.made.total() == 40
    await acceptor.close()
