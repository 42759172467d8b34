"""Reading the parameters of a host call: one msgspec type an operation, one error for what does not fit.

A value that is passed on unread (`msgspec.Raw`) has been checked for its grammar, its escapes and its surrogates, but not
for its numbers: `Numbers` refuses those that no double can hold, which readers of JSON refuse, round to infinity or
misread.
"""

from __future__ import annotations

import math
import re
from typing import TypeVar

import msgspec

from insula.host.contract import HostError
from insula.offload import Offload

T = TypeVar("T")


def read(decoder: msgspec.json.Decoder[T], parameters: bytes) -> T:
    """The parameters as the decoder's type; HostError INVALID_PARAMETERS that names what is wrong and where."""
    try:
        return decoder.decode(parameters)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HostError("INVALID_PARAMETERS", str(error) or "the parameters are nested too deeply") from None


#: A value of at most this size (bytes) is checked on the event loop; a larger one in a thread.
_AT_ONCE = 16_384
#: Larger values of all services that wait to be checked.
_MOST = 64
#: Makes all digits `0` (and `E` an `e`), so that `_SUSPICIOUS` finds numbers that may be out of range.
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
#: An exponent of three digits; or 200 digits, which may be out of range with an exponent of two.
_SUSPICIOUS = (b"e000", b"0" * 200)
_NUMBERS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|-?[0-9][-+.0-9eE]*+', re.DOTALL)


class Numbers:
    """Checks the numbers of values. What takes long is done in threads that services share, each with its part."""

    def __init__(self) -> None:
        self._threads = Offload(
            2,
            _MOST,
            name="insula-numbers",
            refusal="this service has as many large values with large numbers under way as its share allows",
        )

    async def check(self, value: bytes, service: str) -> None:
        """HostError INVALID_PARAMETERS where a JSON text has a number beyond the doubles (1e999). It costs a copy and a
        search where no number looks like one. UnavailableError where too many values of the service wait."""
        alike = value.translate(_ALIKE, b"+")
        if not any(part in alike for part in _SUSPICIOUS):
            return
        if len(value) <= _AT_ONCE:
            _check_each(value)
        else:
            await self._threads.run(service, _check_each, value)


def _check_each(value: bytes) -> None:
    for match in _NUMBERS.finditer(value):
        text = match[0]
        if text[0] != ord('"') and math.isinf(float(text)):
            raise HostError("INVALID_PARAMETERS", f"the number {text[:40].decode()} is out of range")
