"""Codecs over processes of their own, and a schema whose values grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
import uvloop

from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.idl import parse_idl
from insula.schema.model import Method, Schema
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs, ServiceCodecs
from insula.transcoding.store import MessageStore

T = TypeVar("T")

SCHEMA = parse_idl(
    """
    @okra(namespace: "grow", version: "v1")
    service Grow { echo(input: Table!): Table!  rows(input: Table!): [Row!]!  ping }
    type Table { rows: [Row!]! names: [String!] numbers: [Int!] times: [Time!] data: Bytes note: String }
    type Row { """
    + " ".join(f"field_{number}: String!" for number in range(990))
    + " }"
)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


def method(name: str, schema: Schema = SCHEMA) -> Method:
    """A method of a schema."""
    return next(method for method in schema.service.methods if method.name == name)


def soon(seconds: float = 30.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def of_service(processes: CodecProcesses, schema: Schema = SCHEMA, bounds: Bounds = DEFAULT_BOUNDS) -> ServiceCodecs:
    """The codecs of a service over these processes."""
    return Codecs(processes, MessageStore()).of("grow.Grow.v1", "digest", schema, bounds)


@pytest.fixture
async def processes() -> AsyncIterator[CodecProcesses]:
    """Two processes, closed at the end."""
    made = CodecProcesses()
    yield made
    await made.close()


class Turns:
    """The longest turn of the event loop while something is awaited, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def over(self, work: Awaitable[T]) -> T:
        """What `work` gives; the loop is looked at all the while."""
        done = asyncio.ensure_future(work)
        last = time.monotonic()
        while not done.done():
            await asyncio.sleep(0)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now
        return done.result()
