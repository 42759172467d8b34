"""A server: starts in order, drains and stops in reverse.

The order of a start: the settings are checked, both ports are bound (so that a port in use is one plain line), the data
folder is locked, the database is opened, the doors open, the admin port's first, and then what is deployed is staged.
Until that is over, services are `unavailable` and the admin port looks, undeploys and retries. A signal turns it round:
new calls are refused, those in flight get their grace, services stop, the database closes. A second signal ends the
process at once; whatever was acknowledged is on the disk already.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from insula import examples
from insula.assembly import House, assembled
from insula.background import told
from insula.deployments.contract import Deployments
from insula.edge.asgi import App, Receive, Scope, Send
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.errors import Code, ConfigurationError, InsulaError
from insula.logs import Logs
from insula.settings import Settings, check_startable

if TYPE_CHECKING:
    from insula.kinds.contract import Kind

log = logging.getLogger("insula.server")

#: Files that are open beside the connections: instances, compiled code, the database, packages on their way.
OTHER_FILES = 2048


class Server:
    """Insula in one object.

    `run()` serves until a signal comes. `start()` and `stop()` do the same inside a loop that is already running, and
    `app()` is the public port as an ASGI application for a server of your own, which must send it the lifespan events.
    `deploy` are packages to have deployed once it is up, unless they are already: files, or the name of an example that
    comes with Insula (`greeter`). `kinds` are more kinds of packages than come with Insula. `ready` is called once the
    doors are open.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        deploy: Sequence[str | Path] = (),
        kinds: Sequence[Kind] = (),
        ready: Callable[[Server], None] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._deploy = [str(entry) for entry in deploy]
        self._kinds = kinds
        self._ready = ready
        self._sockets: list[socket.socket] = []
        self._listeners: list[Listener] = []
        self._house: House | None = None
        self._stack = AsyncExitStack()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the public listener; RuntimeError before it is bound."""
        return self._address(0)

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener; RuntimeError before it is bound."""
        return self._address(1)

    def _address(self, index: int) -> tuple[str, int]:
        if not self._sockets:
            raise RuntimeError("the server is not started")
        host, port = self._sockets[index].getsockname()[:2]
        return host, port

    @property
    def deployments(self) -> Deployments:
        """What is deployed, and the way to change it; RuntimeError before the server is started."""
        if self._house is None:
            raise RuntimeError("the server is not started")
        return self._house.manager

    def run(self) -> int:
        """Serves until SIGINT, SIGTERM or SIGHUP; 0 after an orderly stop. ConfigurationError where it cannot start."""
        _have_standard_files()
        check_startable(self.settings)
        for entry in self._deploy:
            _file(entry)
        self._bind()
        with Logs(self.settings.logging) as logs:
            self.settings = _with_room_for_files(self.settings)
            _make_table_of_files(self.settings)
            uvloop.run(self._serve(logs))
        return 0

    async def start(self) -> None:
        """Opens the doors; returns once calls are answered. ConfigurationError where it cannot start."""
        check_startable(self.settings)
        if not self._sockets:
            await asyncio.to_thread(self._bind)
        try:
            house = self._house = await self._stack.enter_async_context(assembled(self.settings, self._kinds))
            await self._open(house)
            await house.start()
            await self._deploy_wanted(house)
        except BaseException:
            await self.stop(0)
            raise
        house.facts.ready = True
        if self._ready is not None:
            self._ready(self)

    async def stop(self, grace: float | None = None) -> None:
        """Refuses new calls, lets those in flight finish for `grace` seconds (the setting's, unless given), then stops
        every service and closes everything. Idempotent."""
        if grace is None:
            grace = self.settings.limits.shutdown_grace_ms / 1000
        if self._house is not None:
            self._house.drain()
        await asyncio.gather(*(listener.stop(grace) for listener in self._listeners))
        await self._stack.aclose()
        for sock in self._sockets:
            sock.close()
        self._house = None
        self._listeners.clear()

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Services run inside. It is for an application of your own that has `app()` mounted in it:
        `FastAPI(lifespan=server.lifespan)`. ConfigurationError where they cannot start."""
        check_startable(self.settings)
        async with self._stack:
            self._house = await self._stack.enter_async_context(assembled(self.settings, self._kinds))
            await self._house.start()
            await self._deploy_wanted(self._house)
            self._house.facts.ready = True
            try:
                yield
            finally:
                self._house.drain()
        self._house = None

    def app(self) -> App:
        """The public port as an ASGI application, for a server of your own. Services start with the first of ASGI's
        lifespan events and stop with the last, or run in `lifespan`. It may be mounted below a prefix."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            elif self._house is None:
                raise RuntimeError(
                    "the services are not started: switch on the lifespan events of ASGI in your server, or, where this "
                    "application is mounted in another one, give that one server.lifespan as its lifespan"
                )
            else:
                await self._house.public(scope, receive, send)

        return application

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.lifespan())
            except InsulaError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, logs: Logs) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def on_signal(number: signal.Signals) -> None:
            if stopped.is_set() and number is not signal.SIGHUP:  # a terminal that closes may say so twice
                logs.close(0.5)
                os._exit(0)
            stopped.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                loop.add_signal_handler(number, on_signal, number)
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # what rotates logs may send one, whose default is the end
            loop.add_signal_handler(
                number, log.info, "nothing is done for signal %d; a log file is followed by itself", number
            )
        starting = asyncio.create_task(self.start())
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await waiting
        else:
            starting.cancel()
            await asyncio.wait((told(starting, "the start that was interrupted"),))
        log.info("stopping; a second signal ends the process at once")
        await self.stop()
        log.info("stopped")

    def _bind(self) -> None:
        server = self.settings.server
        public = bind(server.host, server.port, "--port")
        try:
            admin = bind(server.admin_host, server.admin_port, "--admin-port")
        except BaseException:
            public.close()
            raise
        self._sockets = [public, admin]

    async def _open(self, house: House) -> None:
        limits = self.settings.limits
        public = ConnectionLimits(
            max_connections=limits.max_connections,
            max_head=limits.header_bytes,
            max_target=limits.target_bytes,
            max_fields=limits.header_count,
            first_byte_timeout=limits.header_timeout_ms / 1000,
            head_timeout=limits.header_timeout_ms / 1000,
            keep_alive_timeout=limits.keep_alive_ms / 1000,
            body_timeout=limits.body_timeout_ms / 1000,
            min_rate=limits.body_rate_bytes,
            write_timeout=limits.write_timeout_ms / 1000,
            max_unread=limits.held_mb << 20,
        )
        admin = ConnectionLimits(max_connections=limits.max_admin_connections, body_timeout=self._admin_body_timeout())
        dropped = house.metrics.dropped
        self._listeners = [
            Listener(
                house.public,
                self._sockets[0],
                public,
                dropped=dropped,
                lane=Lane(house.public),
                upgrades=house.public.upgrades,
            ),
            Listener(house.admin, self._sockets[1], admin, dropped=dropped),
        ]
        for listener in reversed(self._listeners):
            await listener.start()
        house.facts.connections = lambda: self._listeners[0].connections if self._listeners else 0
        house.facts.public_url, house.facts.admin_url = (listener.url for listener in self._listeners)
        log.info("listening on %s, admin on %s", house.facts.public_url, house.facts.admin_url)

    def _admin_body_timeout(self) -> float:
        return self.settings.packages.read_timeout_ms / 1000

    async def _deploy_wanted(self, house: House) -> None:
        for entry in self._deploy:
            try:
                await house.manager.deploy_file(await asyncio.to_thread(_file, entry))
            except InsulaError as error:
                if error.code is not Code.ALREADY_EXISTS:
                    raise


def _have_standard_files() -> None:
    """Opens standard input, output and error where the parent process closed them (`2>&-`). Else the next file or socket
    would get that number, and with it what is written to standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _with_room_for_files(settings: Settings) -> Settings:
    """Raises this process's bound on open files to what its connections may need, as far as the system lets it. Where that
    is too little, fewer connections are taken: silent ones would else have every file there is, and neither the admin port
    nor the database could open another."""
    limits = settings.limits
    wanted = limits.max_connections + limits.max_admin_connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return settings
    most = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS has a lower bound of its own
        most = soft
    if most >= wanted:
        return settings
    admin = min(limits.max_admin_connections, max(1, most // 8))
    public = min(limits.max_connections, max(1, most // 4, most - admin - OTHER_FILES))
    log.warning(
        "this process may open %d files and wants %d: it takes %d connections at once; raise ulimit -n",
        most,
        wanted,
        public,
    )
    fewer = msgspec.structs.replace(limits, max_connections=public, max_admin_connections=admin)
    return msgspec.structs.replace(settings, limits=fewer)


def _make_table_of_files(settings: Settings) -> None:
    """Has the system make its table of this process's open files as large as it may get. Linux doubles the table at need,
    and in a process with threads it then waits for all processors (`expand_fdtable` in fs/file.c): the loop stood for 10
    to 30 ms at the 64th connection, the 128th, and so on."""
    limits = settings.limits
    last = limits.max_connections + limits.max_admin_connections + OTHER_FILES - 1
    with suppress(OSError, ValueError), open(os.devnull, "rb") as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, last))


def _file(entry: str) -> Path:
    """What `deploy` was given, as a file: an example by its name, else a path."""
    file = examples.find(entry) or Path(entry).absolute()
    if not file.exists():
        raise ConfigurationError(
            f"{entry} is to be deployed, and there is no such file", hint="name a package, or an example: greeter"
        )
    return file
