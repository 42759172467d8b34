"""JSON texts too large for one step: checked in slices, and taken apart without a look at the one value that is large.

A C call holds the interpreter from its beginning to its end, and one that reads 10 MiB of JSON takes 16 ms. So a text above
`MAX_WHOLE` bytes is read only as far as it is small: it is an object of which one member is large, and the others, before
and behind it, are scalars or flat objects. The large member is passed on as it is, to operations that know what to do with
it. A text of any other shape is refused: what is large is one value, not the whole.

In JSON the end of the large member is found from the end of the text: behind it there is nothing but small members, and
the bracket that closes the object. In a text that is no JSON the member may be anything.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import re
from typing import Any, TypeVar

import msgspec

from insula.host.contract import HostError
from insula.host.parameters import read

T = TypeVar("T")

#: Bytes of JSON that are read in one step, and of UTF-8 that are checked in one.
MAX_WHOLE = 2 << 20
SLICE = 1 << 20

#: Bytes before the large member, and behind it.
_HEAD = 32 << 10
_TAIL = 2 << 10

_WS = rb"[ \t\r\n]{0,64}+"
_STRING = rb'"(?:[^"\\]|\\.){0,4096}+"'
_SCALAR = rb"(?:" + _STRING + rb"|-?[0-9][0-9.eE+-]{0,40}|true|false|null)"
_PAIR = _STRING + _WS + rb":" + _WS + _SCALAR + _WS
_VALUE = rb"(?:" + _SCALAR + rb"|\{" + _WS + rb"(?:" + _PAIR + rb"(?:," + _WS + _PAIR + rb"){0,64}+)?\})"
_MEMBER = _STRING + _WS + rb":" + _WS + _VALUE + _WS
_BEGIN = re.compile(
    _WS + rb"\{" + _WS + rb"(?:" + _MEMBER + rb"," + _WS + rb"){0,16}(" + _STRING + rb")" + _WS + rb":" + _WS, re.DOTALL
)
#: With any names: a comma in a string is never taken for one before a member, since no colon comes behind its quotes.
_END = re.compile(_WS + rb"(?:," + _WS + _MEMBER + rb"){0,8}+\}" + _WS + rb"\Z", re.DOTALL)


async def check_utf8(text: bytes) -> None:
    """UnicodeDecodeError where the text is not UTF-8; others have their turn between two slices."""
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    for at in range(0, len(text), SLICE):
        decoder.decode(view[at : at + SLICE], at + SLICE >= len(text))
        await asyncio.sleep(0)


def read_large(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """`read`, of a text of any size. Above `MAX_WHOLE` a member that is declared as `msgspec.Raw` may be large, and is then
    not known to be JSON. HostError."""
    if len(text) <= MAX_WHOLE:
        return read(decoder, text)
    kind: Any = decoder.type
    large = _large(kind)
    begin = _BEGIN.match(text, 0, _HEAD)
    name = None if begin is None else _name(begin[1])
    if begin is None or name not in large:
        raise HostError("LIMIT_EXCEEDED", f"above {MAX_WHOLE} bytes one value may be large: {', '.join(large)}")
    end = _END.search(text, max(len(text) - _TAIL, begin.end()))
    if end is None:
        raise HostError("INVALID_PARAMETERS", f"behind {name} there is more than a few small values, or no end")
    found = read(decoder, b"%bnull%b" % (text[: begin.end()], text[end.start() :]))
    setattr(found, large[name], msgspec.Raw(memoryview(text)[begin.end() : end.start()]))
    return found


def _name(text: bytes) -> str | None:
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


@functools.cache
def _large(kind: Any) -> dict[str, str]:
    """The attributes of a type's members that may be large, by the names of the members."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(kind) if field.type is msgspec.Raw}
