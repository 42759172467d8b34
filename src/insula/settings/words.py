"""Settings in words: what a type accepts, what a default is, and which key is nearest to one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from insula.settings.secret import Secret
from insula.spelling import nearest as most_like


def bare(annotation: Any) -> Any:
    """The type without Annotated and without `| None`."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return bare(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def meta(annotation: Any) -> Meta:
    """The bounds and the description of a field."""
    found: Meta = next((part for part in get_args(annotation)[1:] if isinstance(part, Meta)), Meta())
    return found


def accepts(annotation: Any) -> str:
    """What a field of this type takes: `a whole number from 0 to 65535`."""
    kind, bounds = bare(annotation), meta(annotation)
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _range(bounds)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {'paths' if get_args(kind)[0] is Path else 'texts'}"
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        return f"a table, each value {accepts(value)}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "a table of " + ", ".join(kind.__struct_fields__)
    if kind is Path:
        return "a path"
    if bounds.max_length:
        return f"a text of {bounds.min_length or 0} to {bounds.max_length} characters"
    return "a text"


def _range(bounds: Meta) -> str:
    if bounds.gt is not None:
        low = f" above {bounds.gt}"
        return low + (f", {bounds.le} at most" if bounds.le is not None else "")
    if bounds.ge is not None:
        return f" from {bounds.ge} to {bounds.le}" if bounds.le is not None else f", {bounds.ge} or more"
    return ""


def shown(value: Any) -> str:
    """A value as TOML would have it, for people; a secret is never printed."""
    if value is None:
        return "none"
    if isinstance(value, Secret):
        return "(hidden)" if value else "(empty)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, msgspec.Struct):
        return shown({key: each for key, each in msgspec.structs.asdict(value).items() if each is not None})
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {shown(item)}' for key, item in value.items()) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def nearest(wrong: str, real: Iterable[str]) -> str:
    """The real key that looks most like a wrong one; the last parts count most, as sections are rarely misspelt."""
    section = wrong.partition(".")[0]
    keys = list(real)
    here = [key for key in keys if key.partition(".")[0] == section]
    return most_like(wrong, here, least=0.0) or most_like(wrong, keys, least=0.0) or ""
