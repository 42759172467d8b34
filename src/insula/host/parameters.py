"""Reading the parameters of a host call: one msgspec type an operation, one error for what does not fit."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from insula.host.contract import HostError

T = TypeVar("T")


def read(decoder: msgspec.json.Decoder[T], parameters: bytes) -> T:
    """The parameters as the decoder's type; HostError INVALID_PARAMETERS that names what is wrong and where."""
    try:
        return decoder.decode(parameters)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HostError("INVALID_PARAMETERS", str(error) or "the parameters are nested too deeply") from None
