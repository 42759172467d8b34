"""`okra.call`: `invoke {service, method, input}` -> the method's output, from one service to another.

`service` is a full id or a name without version, which is the latest. The call goes the way of any other: the callee's
policy is asked with the identity that this call has, the input is read by the callee's codec, its mailbox and limits
hold. What it inherits: the deadline (or the callee's own time, where that is shorter), the identity, the request id, the
trace, and the metadata without what belongs to one hop, to the message or to the client's credentials: the callee acts
for the same identity, and has no need of what proved it. It does not inherit the idempotency key, as it is another call.
Headers and trailers of the callee stay here.

The services that a call came through travel with it. A service that would be called again by a call of its own, and a
call through too many, are LIMIT_EXCEEDED, refused by the callee before anything runs, so that a cycle cannot fill the
mailboxes of those in it.

The output is what a client of the method would get as JSON: of a method that returns a scalar or a list,
`{"response": …}`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from insula.authorisation import authorise
from insula.calls import Call, Headers, Reply, ServiceId
from insula.errors import Code
from insula.headers import NOT_INHERITED, NOT_INHERITED_PREFIXES
from insula.host.contract import Configured, HostError, LargeOperation, Operation
from insula.host.large import read_large
from insula.host.options import no_options
from insula.host.scope import Scope
from insula.host.services import HostServices
from insula.plans import Plan


class _Invoke(msgspec.Struct, gc=False):
    service: str
    method: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


_invokes = msgspec.json.Decoder(_Invoke)


class CallCapability:
    """`find` gives the plan of a method by service and method name, or fails with CallerError."""

    name = "okra.call"

    def __init__(self, find: Callable[[str, str], Plan], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._monotonic = monotonic

    def configure(self, _service: ServiceId, options: Mapping[str, Any]) -> ServiceCalls:
        no_options(self.name, options)
        return ServiceCalls(self._find, self._monotonic)


class ServiceCalls(Configured):
    """The calls of one service to others."""

    def __init__(self, find: Callable[[str, str], Plan], monotonic: Callable[[], float]) -> None:
        self._find = find
        self._monotonic = monotonic

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"invoke": LargeOperation(self._invoke)}

    def _invoke(self, scope: Scope, parameters: bytes) -> Awaitable[bytes]:
        asked = read_large(_invokes, parameters)
        return self.invoke(scope, asked.service, asked.method, asked.input)

    async def invoke(self, scope: Scope, service: str, method: str, message: bytes | msgspec.Raw) -> bytes:
        """Calls a method of a service, by its full id or its name without version: JSON in, JSON out. HostError, or the
        InsulaError of the callee."""
        plan = self._find(service, method)
        caller = scope.call
        _allow(plan, caller)
        body = bytes(message)
        if len(body) > plan.max_body:
            raise HostError(
                "LIMIT_EXCEEDED",
                f"the input is larger than limits.body_bytes of {plan.service} allows, {plan.max_body} bytes",
            )
        codec = plan.json()
        deadline = min(caller.deadline, self._monotonic() + plan.timeout)
        payload = codec.read_input(b"{}" if body == b"null" else body, deadline)
        call = Call(
            plan.service,
            plan.method,
            payload if isinstance(payload, bytes) else await payload,
            deadline,
            inherited(caller.metadata),
            caller.principal,
            caller.request_id,
            caller.traceparent,
            "",
            (*caller.path, str(scope.service)),
        )
        answer = plan.entrance()(call)
        reply = answer if isinstance(answer, Reply) else await answer
        output = codec.write_output(reply.payload, deadline)
        return output if isinstance(output, bytes) else await output


def inherited(metadata: Headers) -> Headers:
    """The part of a call's metadata that goes on with the calls it makes."""
    return tuple(
        pair for pair in metadata if pair[0] not in NOT_INHERITED and not pair[0].startswith(NOT_INHERITED_PREFIXES)
    )


def _allow(plan: Plan, caller: Call) -> None:
    refusal = authorise(plan.policy, caller.principal)
    if refusal is None:
        return
    if refusal.code is Code.UNAUTHENTICATED:
        raise HostError("POLICY_DENIED", f"{plan.service}/{plan.method} needs an identity, and this call has none")
    raise HostError("POLICY_DENIED", f"{plan.service}/{plan.method} needs a role that the caller does not have")


def capability(services: HostServices) -> CallCapability:
    return CallCapability(services.find)
