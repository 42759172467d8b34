"""What a deploy would change, in plain words: the answer to `--plan`, and part of every deploy's answer."""

from __future__ import annotations

from insula.packages.package import Package


def describe(new: Package, old: Package | None) -> list[str]:
    """The differences that an operator decides by, one sentence each; one sentence where there are none."""
    if old is None:
        return [f"a new service with {_count(len(new.schema.service.methods), 'method')}"]
    if new.digest == old.digest:
        return ["the same package: the service is started afresh"]
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
    lines += [
        f"limit {field} {getattr(old.config.limits, field)} becomes {getattr(new.config.limits, field)}"
        for field in new.config.limits.__struct_fields__
        if getattr(new.config.limits, field) != getattr(old.config.limits, field)
    ]
    if new.wasm_digest != old.wasm_digest:
        lines.append("the code is different")
    return lines or ["the package is different, what it does and asks for is not"]


def _shape(method: object) -> str:
    return f"({getattr(method, 'input_type', '')}) -> {getattr(method, 'output_type', '')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
