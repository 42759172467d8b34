"""Protobuf binary of one method: by way of protobuf's own JSON and the method's JSON codec.

Binary -> message -> proto3 JSON -> the JSON codec -> the guest's JSON, and the same way back. So there is one truth about
presence, zero values, 64-bit numbers and timestamps, and the same rules refuse what does not fit, an enum number that
the schema does not know among it.

Loading the protobuf library takes 0.1 s, a registry up to half a second, and neither is ever freed: message classes keep
their memory (some 100 KB a schema) for the life of the process. Who makes them here does so in a thread, or in a process
that may end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from insula.errors import CallerError, GuestError
from insula.schema import bounds as bound
from insula.schema.binary_count import FieldCount
from insula.schema.bounds import Bounds
from insula.schema.descriptors import input_message, output_message
from insula.schema.json_codec import WholeCodec
from insula.schema.model import Method, Schema

if TYPE_CHECKING:
    from protobuf import Message, Registry


def read_registry(descriptor: bytes) -> Registry:
    """The registry of a descriptor set."""
    from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

    return FileDescriptorSet.from_binary(descriptor).to_registry()


class Messages(NamedTuple):
    """The two messages of a method: binary -> proto3 JSON of its input, and proto3 JSON -> binary of its output. Both raise
    InsulaError."""

    to_json: Callable[[bytes], bytes]
    to_binary: Callable[[bytes], bytes]


def messages_of(registry: Registry, schema: Schema, method: Method) -> Messages:
    """The messages of one method; their classes are made by this."""
    both = _Messages(
        _message_class(registry, input_message(schema, method)),
        _message_class(registry, output_message(schema, method)),
    )
    return Messages(both.to_json, both.to_binary)


def compile_binary(
    registry: Registry, schema: Schema, method: Method, json: WholeCodec, bounds: Bounds, count: FieldCount
) -> WholeCodec:
    """The binary codec of one method, over the registry of its schema's descriptor set and its JSON codec."""
    messages = messages_of(registry, schema, method)

    def read(body: bytes) -> bytes:
        if count.exceeds(method.input_type, body, bounds.values):
            raise bound.too_many_values(bounds, "protobuf fields and items")
        return json.read_input(messages.to_json(body))

    def write(payload: bytes) -> bytes:
        out = messages.to_binary(json.write_output(payload))
        if len(out) > bounds.output_bytes:
            raise bound.answer_too_large(bounds)
        return out

    return WholeCodec(read, write)


def _message_class(registry: Registry, name: str) -> type[Message[Any]]:
    message = registry.message(name)
    assert message is not None, f"the descriptor of a schema has its own message {name}"
    return message.type


class _Messages:
    __slots__ = ("_input", "_output")

    def __init__(self, input_class: type[Message[Any]], output_class: type[Message[Any]]) -> None:
        self._input = input_class
        self._output = output_class

    def to_json(self, body: bytes) -> bytes:
        # The library documents no exceptions of its own, and the body is a stranger's: whatever it raises, it refuses.
        try:
            message = self._input.from_binary(body)
        except UnicodeDecodeError:
            raise CallerError("a string of the message is not UTF-8") from None
        except MemoryError:
            raise
        except RecursionError:
            raise CallerError("the message nests too deeply", hint="protobuf allows 100 levels") from None
        except Exception:
            raise CallerError(
                f"not a protobuf message {self._input.desc().type_name}",
                hint="the message is of another type, cut off, or not protobuf at all",
            ) from None
        try:
            return message.to_json().encode()
        except MemoryError:
            raise
        except Exception:
            raise CallerError("a timestamp of the message is out of range", hint="years 0001 to 9999") from None

    def to_binary(self, text: bytes) -> bytes:
        try:
            return self._output.from_json(text).to_binary()
        except MemoryError:
            raise
        except Exception as error:  # the codec has checked the shape; what is left is depth
            deep = isinstance(error, RecursionError)
            raise GuestError(
                "the service's answer nests too deeply for protobuf" if deep else "the service's answer is no message"
            ) from error
