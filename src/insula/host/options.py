"""What a package may write for a capability under `grants` in okra.json: each capability says, all else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.errors import PackageError


def no_options(api: str, options: Mapping[str, Any]) -> None:
    """PackageError where a package writes options for a capability that has none."""
    for key in options:
        raise PackageError(f"grants of okra.json has the key {key[:80]!r} for {api}", hint=f"{api} has no options")


def string_list(api: str, options: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The one option of a capability, a list of strings under `key`; PackageError for another key or another type."""
    for name in options:
        if name != key:
            raise PackageError(
                f"grants of okra.json has the key {name[:80]!r} for {api}",
                hint=f'the one option is {key!r}: {{"{api}": {{"{key}": ["…"]}}}}',
            )
    value = options.get(key, [])
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise PackageError(f"{key!r} for {api} in grants of okra.json must be a list of strings")
    return tuple(value)
