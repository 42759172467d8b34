"""okra.json: what a package is called, what it asks for, and how much it may take.

What other tools keep in the file is theirs and is let through. What is ours (`host_apis`, `grants`, `limits`) is read
strictly, and so is a key that is nearly one of them: a misspelt grant that is silently ignored costs an evening.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from insula.errors import PackageError
from insula.packages.deployable import LIMIT_BOUNDS, ServiceLimits
from insula.packages.package import PackageConfig
from insula.spelling import nearest

FILE = "okra.json"
_BOM = b"\xef\xbb\xbf"
_OURS = ("host_apis", "grants", "limits")
_KNOWN = PackageConfig.__struct_fields__
_API = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_MAX_NAME = 128
_MAX_APIS = 100
_MAX_DEPTH = 64
_ALWAYS_GRANTED = "okra.context"


def read_config(data: bytes) -> PackageConfig:
    """The configuration in an okra.json; PackageError naming the key that is wrong, and what it should be."""
    document = _document(data)
    _check_names(document)
    if isinstance(document.get("limits"), dict):
        _check_limits(document["limits"])
    try:
        config = msgspec.convert(document, PackageConfig)
    except msgspec.ValidationError as error:
        raise PackageError(f"{FILE}: {_plainly(error)}") from error
    _check_apis(config)
    return msgspec.structs.replace(config, host_apis=tuple(dict.fromkeys(config.host_apis)))


def write_config(config: PackageConfig) -> bytes:
    """The configuration as indented JSON, the same bytes for the same configuration."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def check_depth(file: str, value: Any) -> None:
    """PackageError where JSON nests so deeply that what reads it later could run out of stack."""
    level, inside = 0, [value]
    while inside:
        if level > _MAX_DEPTH:
            raise PackageError(f"{file} nests its values more than {_MAX_DEPTH} deep")
        level += 1
        inside = [
            child
            for container in inside
            if isinstance(container, dict | list | tuple)
            for child in (container.values() if isinstance(container, dict) else container)
        ]


def _document(data: bytes) -> dict[str, Any]:
    data = data.removeprefix(_BOM)
    try:
        document = msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise PackageError(f"{FILE} is not JSON: its text is not UTF-8", hint="save it as UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise PackageError(f"{FILE} is not JSON: {_at_line(str(error), data)}") from error
    if not isinstance(document, dict):
        raise PackageError(f"{FILE} is not a JSON object", hint='it looks like {"name": "Greeter", "version": "1.0.0"}')
    check_depth(FILE, document)
    return {key: value for key, value in document.items() if value is not None}


def _at_line(message: str, data: bytes) -> str:
    """msgspec's `… (byte 31)` with the line that people count by."""
    place = re.search(r" \(byte (\d+)\)", message)
    if place is None:
        return message
    return f"{message[: place.start()]} (line {data.count(10, 0, int(place[1])) + 1})"


def _check_names(document: Mapping[str, Any]) -> None:
    for key in document:
        if key not in _KNOWN and (meant := nearest(_snake(key), _OURS, least=0.8)):
            raise PackageError(f"{FILE} has no key {key[:64]!r}", hint=f"did you mean {meant}?")
    for key, example in (("name", "Greeter"), ("version", "1.0.0")):
        if key not in document:
            raise PackageError(f"{FILE} lacks {key}", hint=f'add "{key}": "{example}"')
    name, version = document["name"], document["version"]
    if isinstance(name, str) and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise PackageError(f"{FILE}: name must have 1 to {_MAX_NAME} printable characters")
    if isinstance(version, str) and not _VERSION.fullmatch(version):
        raise PackageError(
            f"{FILE}: version {version[:64]!r} is not a version", hint="letters, digits and . + _ - as in 1.0.0-rc.1"
        )


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", key[:64]).replace("-", "_").lower()


def _check_limits(limits: Mapping[str, Any]) -> None:
    """One message for each field that is unknown or out of its bounds; wrong types are left to the decoder."""
    known = ServiceLimits.__struct_fields__
    for key, value in limits.items():
        if key not in known:
            meant = nearest(key, known)
            hint = f"did you mean {meant}?" if meant else f"the limits are {', '.join(known)}"
            raise PackageError(f"{FILE}: limits has no key {key[:64]!r}", hint=hint)
        if key in LIMIT_BOUNDS and type(value) is int:
            least, most = LIMIT_BOUNDS[key]
            if not least <= value <= most:
                raise PackageError(f"{FILE}: limits.{key} is {_number(value)}; it must be from {least} to {most}")
    highest = 1 if limits.get("singleton") is True else limits.get("max_instances", ServiceLimits().max_instances)
    lowest = limits.get("min_instances", 0)
    if type(lowest) is int and type(highest) is int and lowest > highest:
        limit = "a singleton has one instance" if limits.get("singleton") is True else f"max_instances is {highest}"
        raise PackageError(f"{FILE}: limits.min_instances is {lowest}, but {limit}")


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**18 else "far out of bounds"


def _check_apis(config: PackageConfig) -> None:
    if len(config.host_apis) > _MAX_APIS:
        raise PackageError(f"{FILE}: host_apis names more than {_MAX_APIS} host APIs")
    for api in config.host_apis:
        if len(api) > _MAX_NAME or not _API.fullmatch(api):
            raise PackageError(
                f"{FILE}: host_apis: {api[:64]!r} is not the name of a host API", hint="they look like okra.state"
            )
    for api in config.grants:
        if api not in config.host_apis and api != _ALWAYS_GRANTED:
            meant = nearest(api, config.host_apis)
            hint = f"did you mean {meant}?" if meant else f'add "{api[:64]}" to host_apis, or take its grants out'
            raise PackageError(f"{FILE}: grants names {api[:64]!r}, which host_apis does not ask for", hint=hint)


def _plainly(error: msgspec.ValidationError) -> str:
    """`Expected `int`, got `str` - at `$.limits.mailbox`` -> `limits.mailbox: expected int, got str`."""
    message, _, place = str(error).replace("`", "").partition(" - at ")
    path = place.removeprefix("$").lstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{path}: {message}" if path else message
