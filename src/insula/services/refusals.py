"""What calls are refused with: the errors of a service, in words for the caller."""

from __future__ import annotations

import logging

from insula.calls import Call
from insula.errors import CallerError, Code, InsulaError, LimitError, UnavailableError

log = logging.getLogger("insula.services")


def check_path(name: str, call: Call, most: int) -> None:
    """LimitError where a call came here from this very service, or through more than `most` services."""
    if name in call.path:
        raise LimitError(
            f"{name} is called again by a call that it began: {' -> '.join((*call.path, name))}",
            reason="call_cycle",
            hint="a service may not call itself, directly or through others",
        )
    if len(call.path) > most:
        raise LimitError(
            f"the call came through {len(call.path)} services, {most} are allowed",
            reason="call_depth",
            hint="let fewer services call each other in a row",
        )


def no_method(name: str, method: str) -> CallerError:
    return CallerError(f"{name} has no method {method[:80]!r}", code=Code.UNIMPLEMENTED)


def streaming_method(name: str, method: str) -> CallerError:
    return CallerError(
        f"{name}/{method} is a streaming method", code=Code.UNIMPLEMENTED, hint="it cannot be called once"
    )


def cannot_start(name: str, retry_after: float) -> UnavailableError:
    return UnavailableError(
        f"{name} cannot start an instance now",
        hint="the server tries again by itself; the admin API has the cause as last_error",
        retry_after=retry_after,
    )


def unexpected(name: str, error: BaseException) -> InsulaError:
    """For an error that is none of ours: the log has it, the caller is told nothing of it."""
    log.error("%s: the engine failed", name, exc_info=error)
    return InsulaError("internal error", hint="the server's log has the cause")
