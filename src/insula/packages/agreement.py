"""Whether two schemas say the same: the IDL of a package and the description that was made from it.

Everything that a caller, a guest or a policy could tell apart is compared: names, types, what is required, the order of
fields and methods (both are numbered by it), directives. Documentation is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from insula.schema.model import Directive, Field, Method, Schema, Type


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


def difference(idl: Schema, description: Schema) -> str | None:
    """The first thing that two checked schemas say differently, in plain words, the IDL's side first; None where they
    agree."""
    for what, ours, theirs in (
        ("the namespace", idl.namespace, description.namespace),
        ("the service", idl.service.name, description.service.name),
        ("the version", idl.version, description.version),
    ):
        if ours != theirs:
            return f"{what} is {ours!r} in the one and {theirs!r} in the other"
    return (
        _names("method", idl.service.methods, description.service.methods)
        or _first(map(_method, idl.service.methods, description.service.methods))
        or _types(idl.types, description.types)
        or _enums(idl, description)
    )


def _first(found: Iterable[str | None]) -> str | None:
    return next((difference for difference in found if difference), None)


def _names(kind: str, ours: Sequence[_Named], theirs: Sequence[_Named], owner: str = "") -> str | None:
    mine, others = [one.name for one in ours], [one.name for one in theirs]
    of = f"{owner}." if owner else ""
    for place, here, there in (("first", mine, set(others)), ("second", others, set(mine))):
        for name in here:
            if name not in there:
                return f"the {kind} {of}{name} is in the {place} alone"
    whose = f" of {owner}" if owner else ""
    return None if mine == others else f"the {kind}s{whose} are in another order"


def _method(ours: Method, theirs: Method) -> str | None:
    return (
        _value(f"the input of {ours.name}", ours.input_type, theirs.input_type)
        or _value(f"the output of {ours.name}", ours.output_type, theirs.output_type)
        or _directives(ours.name, ours.directives, theirs.directives)
    )


def _types(ours: Sequence[Type], theirs: Sequence[Type]) -> str | None:
    mine, others = _sorted(ours), _sorted(theirs)
    difference = _names("type", mine, others)
    if difference:
        return difference
    for one, other in zip(mine, others, strict=True):
        difference = _names("field", one.fields, other.fields, one.name) or _first(
            _field(f"{one.name}.{a.name}", a, b) for a, b in zip(one.fields, other.fields, strict=True)
        )
        if difference:
            return difference
    return None


def _field(path: str, ours: Field, theirs: Field) -> str | None:
    return _value(path, _written(ours), _written(theirs)) or _directives(path, ours.directives, theirs.directives)


def _enums(idl: Schema, description: Schema) -> str | None:
    mine, others = _sorted(idl.enums), _sorted(description.enums)
    return _names("enum", mine, others) or _first(
        _names("value", one.values, other.values, one.name) for one, other in zip(mine, others, strict=True)
    )


def _directives(path: str, ours: Sequence[Directive], theirs: Sequence[Directive]) -> str | None:
    mine, others = [(one.name, one.args) for one in ours], [(one.name, one.args) for one in theirs]
    if mine == others:
        return None
    return f"the directives of {path} differ ({_listed(ours)}; {_listed(theirs)})"


def _listed(directives: Sequence[Directive]) -> str:
    return ", ".join(f"@{one.name}" for one in directives) or "none"


def _sorted(named: Sequence[_T]) -> list[_T]:
    return sorted(named, key=lambda one: one.name)


def _value(path: str, ours: str, theirs: str) -> str | None:
    return (
        None if ours == theirs else f"{path} is {ours or 'nothing'} in the one and {theirs or 'nothing'} in the other"
    )


def _written(field: Field) -> str:
    return field.type + ("!" if field.required else "")
