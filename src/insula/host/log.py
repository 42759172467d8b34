"""`okra.log`: `write {level: debug|info|warn|error, message, context?, timestamp?}` -> null.

The line goes to the service's log (see guest_log: escaped, bounded, limited in rate) with the id of the request beside
it. `context` is any JSON; it is written as compact text behind the message. `timestamp` is accepted and not used: the log
says when the line came, and a guest's word for the time is not evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from insula.calls import ServiceId
from insula.host.contract import Operation, Scope
from insula.host.guest_log import GuestLog, GuestLogs
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.services import HostServices

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class _Write(msgspec.Struct, gc=False):
    level: Literal["debug", "info", "warn", "error"]
    message: str
    context: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: str | int | float | None = None


_writes = msgspec.json.Decoder(_Write)


class LogCapability:
    name = "okra.log"

    def __init__(self, logs: GuestLogs) -> None:
        self._logs = logs

    def configure(self, service: ServiceId, options: Mapping[str, Any]) -> Mapping[str, Operation]:
        no_options(self.name, options)
        log = self._logs.of(service)
        return {"write": lambda scope, parameters: _write(log, scope, parameters)}


def _write(log: GuestLog, scope: Scope, parameters: bytes) -> bytes:
    asked = read(_writes, parameters)
    context = bytes(asked.context)
    text = asked.message if context in (b"null", b"{}") else f"{asked.message} {context.decode(errors='replace')}"
    log.write(_LEVELS[asked.level], text, {"request_id": scope.call.request_id})
    return b"null"


def capability(services: HostServices) -> LogCapability:
    return LogCapability(services.logs)
