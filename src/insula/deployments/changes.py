"""What a deploy would change, in plain words: the answer to `--plan`, and part of every deploy's answer."""

from __future__ import annotations

from typing import Protocol

from insula.packages.deployable import Deployable
from insula.packages.describe import large_memory
from insula.published import Published, PublishedMethod
from insula.services.limits import SERVER, InForce, shown

#: What is said of a service that was stopped and is started again with the package that it had.
STARTED = "the package that is deployed, which was stopped, is started again"


class Side(Protocol):
    """What runs, or would run: a deployable, what it publishes, and the limits that are in force for it."""

    @property
    def deployable(self) -> Deployable: ...

    @property
    def published(self) -> Published: ...

    @property
    def limits(self) -> InForce: ...


def describe(new: Side, old: Side | None) -> list[str]:
    """The differences that an operator decides by, one sentence each; one sentence where there are none. Then what of the
    limits is not as the package has it."""
    return [*_parts(new, old, _limits(new, old)), *limits(new.limits)]


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


def _parts(new: Side, old: Side | None, changed: list[str]) -> list[str]:
    if old is None:
        return [f"a new service with {_count(len(new.published.methods), 'method')}"]
    deployable, former = new.deployable, old.deployable
    if deployable.digest == former.digest:
        return ["the same package: the service is started afresh", *changed]
    lines = []
    if deployable.version != former.version:
        lines.append(f"version {former.version} becomes {deployable.version}")
    lines += _methods(new.published, old.published)
    lines += [f"asks for {api}" for api in deployable.host_apis if api not in former.host_apis]
    lines += [f"no longer asks for {api}" for api in former.host_apis if api not in deployable.host_apis]
    if deployable.options != former.options:
        lines.append("what it asks of its host APIs is different")
    lines += changed
    if deployable.module_digest != former.module_digest:
        lines.append("the code is different")
    return lines or ["the package is different, what it does and asks for is not"]


def _methods(new: Published, old: Published) -> list[str]:
    before = {method.name: method for method in old.methods}
    after = {method.name: method for method in new.methods}
    lines = [f"method {name} is new" for name in after if name not in before]
    lines += [f"method {name} is gone: its callers will get unimplemented" for name in before if name not in after]
    lines += [
        f"method {name} changes from {_shape(before[name])} to {_shape(after[name])}"
        for name in after
        if name in before and _shape(before[name]) != _shape(after[name])
    ]
    types = {kind.name: kind for kind in old.schema.types} if old.schema else {}
    lines += [
        f"type {kind.name} has other fields"
        for kind in (new.schema.types if new.schema else ())
        if kind.name in types and types[kind.name] != kind
    ]
    return lines


def _shape(method: PublishedMethod) -> str:
    return f"({method.input}) -> {method.output}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
