"""The codecs of one service, for its plans: small bodies are converted at once, others in a codec process.

JSON decides by the measure of each text (`schema/json_codec`). Binary decides by the size of the body alone, as protobuf's
own library takes about a microsecond for two bytes. Small bodies use the message classes of the schema, which are made in a
thread at the first binary call while its callers wait. The classes of a schema with more than `MAX_FIELDS` fields are never
made here: all its binary calls go to a process.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from insula.errors import DeadlineError
from insula.plans import Codec
from insula.schema.binary_codec import Messages
from insula.schema.bounds import Bounds
from insula.schema.json_codec import InlineCodec, JsonCodecs, check_zeros
from insula.schema.json_ways import INLINE_NS, Elsewhere
from insula.schema.model import Method, Schema
from insula.transcoding.frames import Work
from insula.transcoding.process import Subject
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.store import MessageStore

#: Bytes of a binary body, of an answer's JSON, and of the JSON in between, that are worked on on the event loop.
INLINE = 2_048
INLINE_TEXT = 8_192
#: Seconds for a process to come free and to compile a schema, at a deploy.
COMPILE_TIME = 60.0
#: Nanoseconds that the library takes for one byte of a message, and for each field that the message might have.
MESSAGE_NS = 1_000
MESSAGE_FIELD_NS = 50
#: Fields of a schema whose message classes are made in the server.
MAX_FIELDS = 1_000


class Codecs:
    """What the codecs of all services share: the processes, and the message classes that were made."""

    def __init__(self, processes: CodecProcesses, store: MessageStore) -> None:
        self.processes = processes
        self.store = store

    def of(self, service: str, digest: str, schema: Schema, bounds: Bounds) -> ServiceCodecs:
        """The codecs of one service. `digest` is its package's."""
        key = f"{digest}/{bounds.input_bytes}/{bounds.output_bytes}/{bounds.values}"
        return ServiceCodecs(self, Subject(service, key, schema, bounds))


class ServiceCodecs:
    """Gives the codecs of a service's methods; each is made when it is first asked for."""

    def __init__(self, codecs: Codecs, subject: Subject) -> None:
        self._codecs = codecs
        self._subject = subject
        self._json = JsonCodecs(subject.schema, subject.bounds, self._json_elsewhere)
        self._binary: dict[str, Codec] = {}

    async def prepare(self) -> None:
        """Checks the types and compiles those of a large schema, in a thread or a process. PackageError."""
        await asyncio.to_thread(self._prepare)
        if self._json.away:
            method = self._subject.schema.service.methods[0].name
            read, _ = self._json_elsewhere(method)
            await read(b"{}", time.monotonic() + COMPILE_TIME)

    def _prepare(self) -> None:
        check_zeros(self._subject.schema, self._subject.bounds)
        self._json.prepare()

    def json(self, method: Method) -> Codec:
        """The codec of a method's JSON."""
        return self._json.of(method.name)

    def binary(self, method: Method) -> Codec:
        """The codec of a method's protobuf binary."""
        codec = self._binary.get(method.name)
        if codec is None:
            codec = self._binary[method.name] = self._made(method)
        return codec

    def _made(self, method: Method) -> Codec:
        subject = self._subject
        read = self._elsewhere(method.name, Work.READ_BINARY)
        write = self._elsewhere(method.name, Work.WRITE_BINARY)
        if sum(len(kind.fields) for kind in subject.schema.types) > MAX_FIELDS:
            return InlineCodec(read, write)
        made = partial(self._codecs.store.messages, subject.key, subject.schema, method)
        # a message takes two bytes at least, and the library looks at each field that it might have
        most = max((len(kind.fields) for kind in subject.schema.types), default=0)
        inline = min(INLINE, subject.bounds.values, INLINE_NS // (MESSAGE_NS + most * MESSAGE_FIELD_NS))
        json = InlineCodec(self.json(method).read_input, self._json.writer(method.name, write))
        return BinaryCodec(json, made, read, write, inline)

    def _json_elsewhere(self, method: str) -> tuple[Elsewhere, Elsewhere]:
        return self._elsewhere(method, Work.READ_JSON), self._elsewhere(method, Work.WRITE_JSON)

    def _elsewhere(self, method: str, work: Work) -> Elsewhere:
        submit, subject = self._codecs.processes.submit, self._subject

        def elsewhere(body: bytes, deadline: float) -> Future[bytes]:
            return submit(subject, method, work, body, deadline)

        return elsewhere


class BinaryCodec:
    """Protobuf binary of one method on the event loop. `inline` is the longest body that is read here: it has fewer fields
    and items than bytes. What `json` does not write at once it writes in binary, elsewhere."""

    __slots__ = ("_inline", "_json", "_made", "_messages", "_read_away", "_write_away")

    def __init__(
        self,
        json: Codec,
        made: Callable[[], Coroutine[Any, Any, Messages]],
        read_away: Elsewhere,
        write_away: Elsewhere,
        inline: int,
    ) -> None:
        self._json = json
        self._made = made
        self._messages: Messages | None = None
        self._read_away = read_away
        self._write_away = write_away
        self._inline = inline

    def read_input(self, body: bytes, deadline: float, /) -> bytes | Future[bytes]:
        """The client's binary -> the guest's JSON."""
        if len(body) > self._inline:
            return self._read_away(body, deadline)
        messages = self._messages
        if messages is None:
            return asyncio.ensure_future(self._later(self._read, body, deadline))
        return self._read(messages, body, deadline)

    def write_output(self, payload: bytes, deadline: float, /) -> bytes | Future[bytes]:
        """The guest's JSON -> binary for the client."""
        if len(payload) > INLINE:
            return self._write_away(payload, deadline)
        messages = self._messages
        if messages is None:
            return asyncio.ensure_future(self._later(self._write, payload, deadline))
        return self._write(messages, payload, deadline)

    def _read(self, messages: Messages, body: bytes, deadline: float) -> bytes | Future[bytes]:
        text = messages.to_json(body)
        return self._json.read_input(text, deadline)

    def _write(self, messages: Messages, payload: bytes, deadline: float) -> bytes | Future[bytes]:
        text = self._json.write_output(payload, deadline)
        if not isinstance(text, bytes):
            return text  # the future of the binary
        return messages.to_binary(text) if len(text) <= INLINE_TEXT else self._write_away(payload, deadline)

    async def _later(
        self, work: Callable[[Messages, bytes, float], bytes | Future[bytes]], body: bytes, deadline: float
    ) -> bytes:
        try:
            async with asyncio.timeout(None if deadline == float("inf") else max(0.0, deadline - time.monotonic())):
                messages = self._messages = await self._made()
        except TimeoutError:
            raise DeadlineError("the call's time was over while the binary form of its schema was made") from None
        done = work(messages, body, deadline)
        return done if isinstance(done, bytes) else await done
