"""The protobuf message classes of this process: made once a schema, in a thread, one schema at a time.

The classes are never freed: a schema that was called in binary once keeps its memory (some 100 KB) for the life of the
process, whether or not anyone still holds it. So the store knows a schema by the digest of its descriptor, a schema that is
deployed again costs nothing, and no registry is thrown out, since making it again would take the memory twice. Their number
is bounded: a further schema is refused in binary and answers in JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from insula.background import unheard
from insula.errors import LimitError
from insula.schema.binary_codec import Messages, messages_of, read_registry
from insula.schema.descriptors import to_descriptor_set
from insula.schema.model import Method, Schema
from insula.threads import Threads

if TYPE_CHECKING:
    from protobuf import Registry

MAX_SCHEMAS = 1024


class MessageStore:
    """The messages of methods, by schema. One event loop uses it; the registries are made in a thread."""

    def __init__(self, most_schemas: int = MAX_SCHEMAS) -> None:
        self._most = most_schemas
        self._registries: dict[bytes, Registry] = {}
        self._made: dict[str, asyncio.Task[Registry]] = {}
        self._one = asyncio.Semaphore(1)
        self._thread = Threads(1, "insula-messages")

    def __len__(self) -> int:
        """How many schemas have a registry."""
        return len(self._registries)

    async def messages(self, key: str, schema: Schema, method: Method) -> Messages:
        """The messages of one method of a schema; `key` names the schema. All who come while they are made wait for the
        same. LimitError where there is no room for the schema, UnavailableError where the system gives no thread."""
        task = self._made.get(key)
        if task is None:
            task = self._made[key] = asyncio.ensure_future(self._make(schema))
            task.add_done_callback(lambda task: self._forget(key, task))
        registry = await asyncio.shield(task)
        return messages_of(registry, schema, method)

    def _forget(self, key: str, task: asyncio.Task[Registry]) -> None:
        """The registry of a schema is looked up by its descriptor from now on, as long as it is there."""
        del self._made[key]
        if not task.cancelled():
            unheard(task.exception(), "the binary form of a schema")

    async def _make(self, schema: Schema) -> Registry:
        async with self._one:
            return await self._thread.run(self._registry, schema)

    def _registry(self, schema: Schema) -> Registry:
        descriptor = to_descriptor_set(schema)
        digest = hashlib.sha256(descriptor).digest()
        registry = self._registries.get(digest)
        if registry is None:
            if len(self._registries) >= self._most:
                raise LimitError(
                    f"no room for the binary form of another schema: this server has {self._most}",
                    hint="call with JSON, or restart the server to forget the schemas of old deployments",
                )
            registry = self._registries[digest] = read_registry(descriptor)
            for one in schema.service.methods:
                messages_of(registry, schema, one)
        return registry
