"""Protobuf binary of one method: made at its first binary call, by way of protobuf's own JSON and the method's codec.

Binary -> message -> proto3 JSON -> `JsonCodec` -> the guest's JSON, and the same way back. So there is one truth about
presence, zero values, 64-bit numbers and timestamps, and the same rules refuse what does not fit, an enum number that
the schema does not know among it.

Message classes of the protobuf library are never freed: a schema that was called in binary once keeps its memory (some
100 KB) for the life of the process, whether or not anyone still holds it. So the store knows a schema by the digest of
its descriptor, a schema deployed again costs nothing, and nothing is ever thrown out, since making it again would take
the memory twice. What bounds it is their number: past that, a further schema is refused in binary and answers in JSON.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from insula.errors import CallerError, GuestError, LimitError
from insula.plans import BinaryCodec, JsonCodec
from insula.schema.descriptors import input_message, output_message, to_descriptor_set
from insula.schema.model import Method, Schema

if TYPE_CHECKING:
    from protobuf import Message, Registry

MAX_SCHEMAS = 1024


class BinaryStore:
    """The protobuf registries of this process, by the digest of their descriptor set. One event loop uses it."""

    def __init__(self, most: int = MAX_SCHEMAS) -> None:
        self._most = most
        self._registries: dict[bytes, Registry] = {}

    def __len__(self) -> int:
        return len(self._registries)

    def lazy(self, schema: Schema, method: Method, json: JsonCodec) -> LazyBinary:
        """What a plan holds as its `binary`: makes the codec when it is first asked, and answers it from then on."""
        return LazyBinary(self, schema, method, json)

    def registry(self, descriptor: bytes) -> Registry:
        """The registry of a descriptor set; LimitError where the store is full."""
        digest = hashlib.sha256(descriptor).digest()
        registry = self._registries.get(digest)
        if registry is None:
            if len(self._registries) >= self._most:
                raise LimitError(
                    f"no room for the binary form of another schema: this server has {self._most}",
                    hint="call with JSON, or restart the server to forget the schemas of old deployments",
                )
            registry = self._registries[digest] = _read_registry(descriptor)
        return registry


class LazyBinary:
    """A binary codec that is made at its first use."""

    __slots__ = ("_codec", "_json", "_method", "_schema", "_store")

    def __init__(self, store: BinaryStore, schema: Schema, method: Method, json: JsonCodec) -> None:
        self._store = store
        self._schema = schema
        self._method = method
        self._json = json
        self._codec: BinaryCodec | None = None

    def __call__(self) -> BinaryCodec:
        if self._codec is None:
            registry = self._store.registry(to_descriptor_set(self._schema))
            self._codec = compile_binary(self._schema, self._method, self._json, registry)
        return self._codec


def compile_binary(schema: Schema, method: Method, json: JsonCodec, registry: Registry) -> BinaryCodec:
    """The binary codec of one method, over the registry of its schema's descriptor set."""
    return _Codec(
        _message_class(registry, input_message(schema, method)),
        _message_class(registry, output_message(schema, method)),
        json,
    )


def _read_registry(descriptor: bytes) -> Registry:
    from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet  # at the first binary call: 0.1 s

    return FileDescriptorSet.from_binary(descriptor).to_registry()


def _message_class(registry: Registry, name: str) -> type[Message[Any]]:
    message = registry.message(name)
    assert message is not None, f"the descriptor of a schema has its own message {name}"
    return message.type


class _Codec:
    __slots__ = ("_input", "_json", "_output")

    def __init__(self, input_class: type[Message[Any]], output_class: type[Message[Any]], json: JsonCodec) -> None:
        self._input = input_class
        self._output = output_class
        self._json = json

    def read_input(self, body: bytes) -> bytes:
        # The library documents no exceptions of its own, and the body is a stranger's: whatever it raises, it refuses.
        try:
            message = self._input.from_binary(body)
        except UnicodeDecodeError:
            raise CallerError("a string of the message is not UTF-8") from None
        except RecursionError:
            raise CallerError("the message nests too deeply", hint="protobuf allows 100 levels") from None
        except Exception:
            raise CallerError(
                f"not a protobuf message {self._input.desc().type_name}",
                hint="the message is of another type, cut off, or not protobuf at all",
            ) from None
        try:
            text = message.to_json()
        except Exception:
            raise CallerError("a timestamp of the message is out of range", hint="years 0001 to 9999") from None
        return self._json.read_input(text.encode())

    def write_output(self, payload: bytes) -> bytes:
        text = self._json.write_output(payload)
        try:
            return self._output.from_json(text).to_binary()
        except Exception as error:  # the codec has checked the shape; what is left is depth
            deep = isinstance(error, RecursionError)
            raise GuestError(
                "the service's answer nests too deeply for protobuf" if deep else "the service's answer is no message"
            ) from error
