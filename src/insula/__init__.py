"""Insula: a WebAssembly application server. Drop a package in, and its service answers."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from insula.server import Server
    from insula.settings import Settings, load

__version__ = metadata.version("insula")
__all__ = ["Server", "Settings", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """The server is imported when it is asked for: a client of the admin API needs none of it."""
    if name == "Server":
        from insula.server import Server

        return Server
    if name in ("Settings", "load"):
        from insula import settings

        return getattr(settings, name)
    raise AttributeError(f"module 'insula' has no attribute {name!r}")
