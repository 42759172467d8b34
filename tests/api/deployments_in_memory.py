"""Deployments without packages, depots or guests: keeps the contract's promises in a dict."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import AsyncIterator

import msgspec

from insula.deployments.contract import Deployed, Listed, Method, Shown, Step
from insula.errors import CallerError, Code, PackageError


class DeploymentsInMemory:
    """`orders(source)` is what every package holds; the digest is that of the source or of the uploaded bytes."""

    def __init__(self) -> None:
        self.services: dict[str, list[Listed]] = {}
        self.broken = False

    def _put(self, source: str, digest: str, *, override: bool, plan: bool) -> Deployed:
        service_id = "shop.Orders.v1"
        if service_id in self.services and not override and not plan:
            raise CallerError(f"{service_id} is deployed already", code=Code.ALREADY_EXISTS, hint="use override")
        if not plan:
            listed = Listed(service_id, source, "2026-01-31T12:00:00Z", "ready", digest, "1.0.0")
            self.services.setdefault(service_id, []).append(listed)
        return self._deployed(service_id, source, digest, plan=plan)

    def _deployed(self, service_id: str, source: str, digest: str, *, plan: bool) -> Deployed:
        status = "planned" if plan else "deployed"
        steps = [Step("read", 1.0), Step("checked", 0.5), Step("compiled", 41.5), Step("ready", 3.0)]
        return Deployed(
            service_id, status, ["/shop.Orders/place"], digest, "1.0.0", source, ["a new service with 1 method"], steps
        )

    async def deploy(self, source: str, *, override: bool = False, plan: bool = False) -> Deployed:
        if self.broken:
            raise RuntimeError("secret detail")
        if source.endswith("none.okra.pkg"):
            raise CallerError("there is no such package", code=Code.NOT_FOUND, hint="look at the path")
        return self._put(source, hashlib.sha256(source.encode()).hexdigest(), override=override, plan=plan)

    async def upload(self, body: AsyncIterator[bytes], *, override: bool = False, plan: bool = False) -> Deployed:
        digest = hashlib.sha256()
        first = b""
        async for piece in body:
            first = first or piece[:2]
            digest.update(piece)
        if first != b"\x1f\x8b":
            raise PackageError("the package is not gzip", hint="make it with insula build")
        source = f"upload:sha256:{digest.hexdigest()}"
        return self._put(source, digest.hexdigest(), override=override, plan=plan)

    def list(self) -> list[Listed]:
        return [history[-1] for history in self.services.values()]

    async def show(self, service_id: str) -> Shown:
        listed = self._history(service_id)[-1]
        return Shown(
            **{field: getattr(listed, field) for field in Listed.__struct_fields__},
            latest=True,
            endpoints=["/shop.Orders/place"],
            methods=[Method("place", "/shop.Orders/place", "Order", "Receipt", read_only=False, authenticated=False)],
            host_apis=["okra.log"],
            limits={"memory_mb": 64},
            instances={"idle": 1, "busy": 0},
            mailbox={"waiting": 0, "size": 256},
            previous=[one.digest for one in self._history(service_id)[:-1]],
        )

    async def undeploy(self, service_id: str) -> None:
        self._history(service_id)
        del self.services[service_id]

    async def rollback(self, service_id: str, *, plan: bool = False) -> Deployed:
        history = self._history(service_id)
        if len(history) < 2:
            raise CallerError("nothing before", code=Code.FAILED_PRECONDITION, status=409)
        if not plan:
            history.pop()
        return self._deployed(service_id, history[-1].source, history[-1].digest, plan=plan)

    def stop(self, service_id: str, why: str) -> None:
        """As after a start that failed."""
        listed = self.services[service_id][-1]
        self.services[service_id][-1] = msgspec.structs.replace(listed, state="stopped", last_error=why)

    async def retry(self, service_id: str) -> Deployed:
        listed = self._history(service_id)[-1]
        if listed.state != "stopped":
            raise CallerError(f"{service_id} is not stopped", code=Code.FAILED_PRECONDITION, status=409)
        self.services[service_id][-1] = msgspec.structs.replace(listed, state="ready", last_error=None)
        return msgspec.structs.replace(
            self._deployed(service_id, listed.source, listed.digest, plan=False), status="started"
        )

    def _history(self, service_id: str) -> builtins.list[Listed]:
        if service_id not in self.services:
            raise CallerError(f"{service_id} is not deployed", code=Code.NOT_FOUND, hint="insula list")
        return self.services[service_id]
