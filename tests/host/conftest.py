"""A call to work for, and a broker over some capabilities of a service."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping
from typing import Any

from insula.calls import Call, Principal, ServiceId
from insula.host.broker import Broker
from insula.host.contract import Capability
from insula.host.scope import Scope

ID = ServiceId("shop", "Orders", "v1")


def scope(within: float = 10.0, principal: Principal | None = None, **more: Any) -> Scope:
    return Scope(ID, Call(ID, "work", b"{}", time.monotonic() + within, principal=principal, **more))


class Host:
    """One call of a service, and what its guest would read."""

    def __init__(
        self, *capabilities: Capability, options: Mapping[str, Any] | None = None, of: Scope | None = None
    ) -> None:
        self.scope = of or scope()
        granted = {each.name: each.configure(ID, (options or {}).get(each.name, {})).okra for each in capabilities}
        self.broker = Broker(ID, granted, frozenset({*granted, "okra.sql"}))

    async def raw(self, request: bytes) -> Any:
        answer = self.broker.run_host_api(self.scope, request)
        return json.loads(answer if isinstance(answer, bytes) else await answer)

    async def ask(self, api: str, method: str, parameters: Any = None) -> Any:
        """The data, or the code of the error."""
        answer = await self.raw(json.dumps({"api": api, "method": method, "parameters": parameters}).encode())
        return answer["data"] if answer["success"] else answer["error"]["code"]

    async def next(self, iterator_id: str) -> Any:
        answer = self.broker.next(self.scope, json.dumps({"iteratorId": iterator_id}).encode())
        assert inspect.isawaitable(answer)
        return json.loads(await answer)
