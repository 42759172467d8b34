"""The limits of a listener: how many clients, how large a head, and how long each part of a request may take.

Every limit has a default that a server can run on; the settings put others in their place. Times are in seconds, sizes
in bytes. None of them can be switched off: a limit that is too low for a use is raised, never removed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one listener allows each client.

    A body may take `body_timeout` and a second more for each `min_rate` bytes that came, so a large upload over a slow
    line passes and a client that sends a byte now and then does not. `linger` is how long a connection is still read
    after its last answer, so that the answer is not lost to a reset. `max_unread` is for the answers of all connections
    together that their clients do not read: beyond it, the one that has waited longest is cut off.
    """

    max_connections: int = 4096
    max_head: int = 65536
    max_target: int = 32768
    max_fields: int = 128
    first_byte_timeout: float = 10.0
    head_timeout: float = 10.0
    keep_alive_timeout: float = 30.0
    body_timeout: float = 30.0
    min_rate: float = 1024.0
    write_timeout: float = 30.0
    linger: float = 2.0
    max_unread: int = 256 << 20
