"""What a deploy would change, in plain words: the answer to `--plan`, and part of every deploy's answer."""

from __future__ import annotations

from typing import Protocol

from insula.packages.describe import large_memory
from insula.packages.package import Package
from insula.services.limits import SERVER, InForce, shown

#: What is said of a service that was stopped and is started again with the package that it had.
STARTED = "the package that is deployed, which was stopped, is started again"


class Side(Protocol):
    """What runs, or would run: a package and the limits that are in force for it."""

    @property
    def package(self) -> Package: ...

    @property
    def limits(self) -> InForce: ...


def describe(new: Side, old: Side | None) -> list[str]:
    """The differences that an operator decides by, one sentence each; one sentence where there are none. Then what of the
    limits is not as the package has it."""
    return [*_package(new.package, old.package if old else None, _limits(new, old)), *limits(new.limits)]


def limits(force: InForce) -> list[str]:
    """The limits that are not the package's own, and what those in force bring with them."""
    set_here = [
        f"limit {key} is {shown(force[key].value)} by {whence}"
        for key, whence in force.elsewhere().items()
        if force[key].place != SERVER or force[key].package is not None
    ]
    return [*set_here, *large_memory(force["memory_mb"].value)]


def _limits(new: Side, old: Side | None) -> list[str]:
    """Changes of what is in force."""
    before, after = old.limits.values() if old else {}, new.limits.values()
    return [
        f"limit {key} {shown(before[key])} becomes {shown(after[key])}"
        for key in after
        if key in before and before[key] != after[key]
    ]


def _package(new: Package, old: Package | None, changed: list[str]) -> list[str]:
    if old is None:
        return [f"a new service with {_count(len(new.schema.service.methods), 'method')}"]
    if new.digest == old.digest:
        return ["the same package: the service is started afresh", *changed]
    lines = []
    if new.config.version != old.config.version:
        lines.append(f"version {old.config.version} becomes {new.config.version}")
    before = {method.name: method for method in old.schema.service.methods}
    after = {method.name: method for method in new.schema.service.methods}
    lines += [f"method {name} is new" for name in after if name not in before]
    lines += [f"method {name} is gone: its callers will get unimplemented" for name in before if name not in after]
    lines += [
        f"method {name} changes from {_shape(before[name])} to {_shape(after[name])}"
        for name in after
        if name in before and _shape(before[name]) != _shape(after[name])
    ]
    types = {kind.name: kind for kind in old.schema.types}
    lines += [
        f"type {kind.name} has other fields"
        for kind in new.schema.types
        if kind.name in types and types[kind.name] != kind
    ]
    lines += [f"asks for {api}" for api in new.config.host_apis if api not in old.config.host_apis]
    lines += [f"no longer asks for {api}" for api in old.config.host_apis if api not in new.config.host_apis]
    if new.config.grants != old.config.grants:
        lines.append("what it asks of its host APIs is different")
    lines += changed
    if new.wasm_digest != old.wasm_digest:
        lines.append("the code is different")
    return lines or ["the package is different, what it does and asks for is not"]


def _shape(method: object) -> str:
    return f"({getattr(method, 'input_type', '')}) -> {getattr(method, 'output_type', '')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
