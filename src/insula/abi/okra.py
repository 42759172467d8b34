"""The okra ABI: request and response, JSON both ways, as steps over a guest.

Two ways in
- The six-call exchange that every okra guest has: allocate and write the method, allocate and write the input, call
  `handle_request`, copy the output, deallocate the three.
- The one-call entry, used where a guest exports both `insula_input` and `insula_call`: the input goes into a buffer that
  the guest keeps (asked for once an instance, and again for an input that it does not hold), and `insula_call` gets the
  method's number. The output stays the guest's.

What a result is (packed i64: pointer in the upper half, length in the lower)
- 0: the guest failed and says nothing of it; `unknown`.
- Bit 63 set: the JSON at pointer (without its bit 31) and length is `{"error": "text", "code"?}`, the guest's own refusal;
  the code is one of the sixteen names, `unknown` for any other or none.
- Anything else: JSON of the output type.

A refusal is an answer: the guest goes on. Memory that it cannot give, or a result that is not where it says, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from insula.abi.memory import no_room
from insula.errors import Code, GuestError, InsulaError, LimitError, PackageError, code_named
from insula.wasm.contract import Exchange, Guest, HostFunction, HostImport, OverranError, RefusalError, Signature
from insula.wasm.pace import Pace

#: The least that the one-call entry's buffer holds, in bytes: asked for at the first call.
FIRST_BUFFER = 64 << 10

#: The longest request of a host call, in bytes.
MAX_HOST_REQUEST = 10 << 20

#: The longest error object and error text that a guest may answer, in bytes and characters.
MAX_ERROR = 64 << 10
MAX_ERROR_TEXT = 4096

_EXPORTS: Mapping[str, Signature] = {
    "allocate": Signature(("i32",), ("i32",)),
    "deallocate": Signature(("i32",), ()),
    "handle_request": Signature(("i32", "i32", "i32", "i32"), ("i64",)),
}
_OPTIONAL: Mapping[str, Signature] = {
    "_initialize": Signature(),
    "insula_input": Signature(("i32",), ("i32",)),
    "insula_call": Signature(("i32", "i32"), ("i64",)),
}
_HOST_CALL = Signature(("i32", "i32"), ("i32", "i32"))

_IS_ERROR = 1 << 63
_POINTER_BITS = 0x7FFFFFFF
_LENGTH_BITS = 0xFFFFFFFF


class OkraAbi:
    """The ABI itself."""

    name = "okra"

    def check(self, exports: Mapping[str, Signature], has_memory: bool) -> None:
        """PackageError naming the export that is missing or has another type, with the type that it should have."""
        for name, right in _EXPORTS.items():
            if name not in exports:
                raise PackageError(
                    f"service.wasm exports no function {name}; it should be {right}",
                    reason="missing_export",
                    hint=_hint(exports),
                )
        for name, right in (*_EXPORTS.items(), *_OPTIONAL.items()):
            if exports.get(name, right) != right:
                raise PackageError(
                    f"service.wasm exports {name} as {exports[name]}; it should be {right}",
                    reason="wrong_export_type",
                )
        if not has_memory:
            raise PackageError(
                "service.wasm exports no memory; it should export its own as `memory`", reason="missing_export"
            )

    def imports(
        self, functions: Mapping[str, HostFunction], refuse: Callable[[InsulaError], bytes] | None = None
    ) -> Sequence[HostImport]:
        """The imports of module `okra`, over `run_host_api` and `next` by those names. `refuse` tells a refusal of the
        engine's in the shape of an answer."""
        return [
            HostImport("okra", name, _HOST_CALL, _take, function, _give, ("allocate", _give_at), refuse=refuse)
            for name, function in functions.items()
            if name in ("run_host_api", "next")
        ]

    def exchange(self, exports: Mapping[str, Signature], method: str, number: int) -> Exchange:
        """By the one call where the module has it, else by the six."""
        if "insula_input" in exports and "insula_call" in exports:
            return _OneCall(number)
        return _SixCalls(method.encode())


class _SixCalls:
    """allocate x 2, handle_request, deallocate x 3."""

    __slots__ = ("_method", "export", "number", "pace")

    def __init__(self, method: bytes) -> None:
        self.export = "handle_request"
        self.number = None
        self.pace = Pace()
        self._method = method

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        name = self._method
        method = guest.put_in("allocate", name, True) or no_room(guest, "allocate", len(name))
        taken = guest.put_in("allocate", payload) or no_room(guest, "allocate", len(payload))
        return method, len(name), taken, len(payload)

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
        method, _, payload, _ = args
        refusal: RefusalError | None = None
        pointer, output = result >> 32, b""
        if 0 < result < _IS_ERROR:
            output = guest.read(pointer, result & _LENGTH_BITS)
        else:
            refusal = _refused(guest, result)
            pointer &= _POINTER_BITS
        try:
            # A guest may answer in a buffer that it was given: no pointer is freed twice, and 0 is none.
            if pointer and pointer != method != payload != pointer:
                guest.drop("deallocate", method, payload, pointer)
            else:
                guest.drop("deallocate", *dict.fromkeys((method, payload, pointer or method)))
        except OverranError:
            guest.retire()  # the answer is whole
        if refusal is not None:
            raise refusal
        return output


class _OneCall:
    """`insula_call` on a buffer that the guest keeps."""

    __slots__ = ("export", "number", "pace")

    def __init__(self, number: int) -> None:
        self.export = "insula_call"
        self.pace = Pace()
        self.number = number

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        length = len(payload)
        if length > guest.room:
            size = max(length, FIRST_BUFFER)
            guest.room_at = guest.first_call("insula_input", size) or no_room(guest, "insula_input", size)
            guest.room = size
        guest.write(guest.room_at, payload)
        return self.number, length

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:  # noqa: ARG002
        if 0 < result < _IS_ERROR:
            return guest.read(result >> 32, result & _LENGTH_BITS)
        raise _refused(guest, result)


class _ErrorObject(msgspec.Struct, gc=False):
    """What a guest answers instead of an output."""

    error: str
    code: str | None = None


_error_decoder = msgspec.json.Decoder(_ErrorObject)


def _refused(guest: Guest, packed: int) -> RefusalError:
    """The guest's refusal in place of an output. GuestError, LimitError."""
    if packed == 0:
        return RefusalError("the guest failed without a message", code=Code.UNKNOWN, reason="no_message")
    return _refusal(guest.read(packed >> 32 & _POINTER_BITS, packed & _LENGTH_BITS, MAX_ERROR))


def _refusal(text: bytes) -> RefusalError:
    try:
        answer = _error_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise GuestError('the guest\'s error is not JSON of the form {"error": "text", "code"?}') from None
    return RefusalError(answer.error[:MAX_ERROR_TEXT], code=code_named(answer.code))


def _take(guest: Guest, args: tuple[int, ...]) -> bytes | None:
    """A host call's request; None, which the guest reads as (0, 0), where it is too large or not there."""
    try:
        return guest.read(args[0], args[1], MAX_HOST_REQUEST)
    except (GuestError, LimitError):
        return None


def _give(guest: Guest, answer: bytes) -> tuple[int, ...]:
    return guest.put_in("allocate", answer) or no_room(guest, "allocate", len(answer)), len(answer)


def _give_at(guest: Guest, answer: bytes, pointer: int) -> tuple[int, ...]:
    if not pointer:
        no_room(guest, "allocate", len(answer))
    guest.write(pointer, answer)
    return pointer, len(answer)


def _hint(exports: Mapping[str, Signature]) -> str:
    if "_start" in exports:
        return (
            "it is a program that runs and ends (it exports _start); build a reactor: "
            "-mexec-model=reactor for C, -buildmode=c-shared for Go"
        )
    return "mark it as exported, for example with export_name in C or //go:wasmexport in Go"
