"""`okra.log`: `write {level: debug|info|warn|error, message, context?, timestamp?}` -> null.

The line goes to the service's log (see guest_log: escaped, bounded, limited in rate) with the id of the request beside
it. `context` is any JSON; it is written as compact text behind the message. `timestamp` is accepted and not used: the log
says when the line came, and a guest's word for the time is not evidence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from insula.calls import ServiceId
from insula.host.contract import Configured, HostError, LargeOperation, Operation
from insula.host.guest_log import MAX_TEXT, GuestLog, GuestLogs
from insula.host.large import MAX_WHOLE, read_large
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.scope import Scope
from insula.host.services import HostServices

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class _Write(msgspec.Struct, gc=False):
    level: Literal["debug", "info", "warn", "error"]
    message: str
    context: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: str | int | float | None = None


class _LargeWrite(msgspec.Struct, gc=False):
    """The same, where the message or the context is large."""

    level: Literal["debug", "info", "warn", "error"]
    message: msgspec.Raw
    context: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: str | int | float | None = None


_writes = msgspec.json.Decoder(_Write)
_large_writes = msgspec.json.Decoder(_LargeWrite)

#: The beginning of a JSON string, as far as it is whole.
_WHOLE = re.compile(
    rb'"(?:[^"\\]++|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*+'
)

#: Bytes of a large value that are looked at: enough for the longest line, however it is written.
_BEGINNING = 6 * MAX_TEXT


class LogCapability:
    name = "okra.log"

    def __init__(self, logs: GuestLogs) -> None:
        self._logs = logs

    def configure(self, service: ServiceId, options: Mapping[str, Any]) -> ServiceLog:
        no_options(self.name, options)
        return ServiceLog(self._logs.of(service))


class ServiceLog(Configured):
    """The log of one service."""

    def __init__(self, log: GuestLog) -> None:
        self._log = log

    def write(self, scope: Scope, level: str, text: str, *, more: int = 0) -> None:
        """One line, at `debug`, `info`, `warn` or `error`. `more` characters of it were left out."""
        self._log.write(_LEVELS[level], text, {"request_id": scope.call.request_id}, more=more)

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"write": LargeOperation(lambda scope, parameters: _write(self, scope, parameters))}


def _write(log: ServiceLog, scope: Scope, parameters: bytes) -> bytes:
    if len(parameters) > MAX_WHOLE:
        return _write_large(log, scope, parameters)
    asked = read(_writes, parameters)
    context = bytes(asked.context)
    text = asked.message if context in (b"null", b"{}") else f"{asked.message} {context.decode(errors='replace')}"
    log.write(scope, asked.level, text)
    return b"null"


def _write_large(log: ServiceLog, scope: Scope, parameters: bytes) -> bytes:
    asked = read_large(_large_writes, parameters)
    message, more = _beginning(asked.message)
    string = _WHOLE.match(message)
    if string is None:
        raise HostError("INVALID_PARAMETERS", "Expected `str` - at `$.message`")
    try:
        text = msgspec.json.decode(string[0].decode(errors="ignore") + '"', type=str)
    except msgspec.MsgspecError as error:
        raise HostError("INVALID_PARAMETERS", f"{error} - at `$.message`") from None
    if not more:
        context, more = _beginning(asked.context)
        text += " " + context.decode(errors="replace")
    log.write(scope, asked.level, text, more=more)
    return b"null"


def _beginning(value: msgspec.Raw) -> tuple[bytes, int]:
    """The first bytes of a value, and how many are left out."""
    with memoryview(value) as view:
        return bytes(view[:_BEGINNING]), max(0, view.nbytes - _BEGINNING)


def capability(services: HostServices) -> LogCapability:
    return LogCapability(services.logs)
