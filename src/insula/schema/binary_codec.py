"""Protobuf binary of one method: made at its first binary call, by way of protobuf's own JSON and the method's codec.

Binary -> message -> proto3 JSON -> `JsonCodec` -> the guest's JSON, and the same way back. So there is one truth about
presence, zero values, 64-bit numbers and timestamps, and the same rules refuse what does not fit, an enum number that
the schema does not know among it.

Message classes of the protobuf library are never freed: a schema that was called in binary once keeps its memory (some
100 KB) for the life of the process, whether or not anyone still holds it. So the store knows a schema by the digest of
its descriptor, a schema deployed again costs nothing, and no registry is thrown out, since making it again would take
the memory twice. What bounds them is their number: past that, a further schema is refused in binary and answers in JSON.
The codecs over them are small, and the one that was unused for longest makes room.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from insula.errors import CallerError, GuestError, LimitError
from insula.plans import BinaryCodec, JsonCodec
from insula.schema.descriptors import input_message, output_message, to_descriptor_set
from insula.schema.json_codec import compile_json
from insula.schema.model import Method, Schema

if TYPE_CHECKING:
    from protobuf import Message, Registry

MAX_SCHEMAS = 1024
MAX_CODECS = 4096


class BinaryStore:
    """The binary codecs of this process and the protobuf registries under them. One event loop uses it."""

    def __init__(self, most_schemas: int = MAX_SCHEMAS, most_codecs: int = MAX_CODECS) -> None:
        self._most_schemas = most_schemas
        self._most_codecs = most_codecs
        self._registries: dict[bytes, Registry] = {}
        self._codecs: OrderedDict[tuple[str, str], BinaryCodec] = OrderedDict()

    def __len__(self) -> int:
        """How many schemas have a registry."""
        return len(self._registries)

    def codec(self, digest: str, schema: Schema, method: Method) -> BinaryCodec:
        """The codec of one method, made when it is first asked for. `digest` is the package's.

        LimitError where it needs a registry and there is no room for one.
        """
        key = (digest, method.name)
        codec = self._codecs.get(key)
        if codec is None:
            registry = self.registry(to_descriptor_set(schema))
            codec = self._codecs[key] = compile_binary(schema, method, compile_json(schema, method), registry)
            if len(self._codecs) > self._most_codecs:
                self._codecs.popitem(last=False)  # the one that was unused for longest; its registry stays
        else:
            self._codecs.move_to_end(key)
        return codec

    def registry(self, descriptor: bytes) -> Registry:
        """The registry of a descriptor set; LimitError where the store is full."""
        digest = hashlib.sha256(descriptor).digest()
        registry = self._registries.get(digest)
        if registry is None:
            if len(self._registries) >= self._most_schemas:
                raise LimitError(
                    f"no room for the binary form of another schema: this server has {self._most_schemas}",
                    hint="call with JSON, or restart the server to forget the schemas of old deployments",
                )
            registry = self._registries[digest] = _read_registry(descriptor)
        return registry


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
