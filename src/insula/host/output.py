"""What a guest prints: each finished line of stdout and stderr goes to the service's log, under the same bound as
`okra.log` (see guest_log). Lines of stdout are `info`, lines of stderr `warning`."""

from __future__ import annotations

import logging
from collections.abc import Callable

from insula.host.guest_log import GuestLog

_STDERR = 2


def line_writer(log: GuestLog) -> Callable[[int, bytes], None]:
    """What WASI calls with the file descriptor (1 or 2) and the bytes of a line; safe from any thread."""

    def write(fd: int, line: bytes) -> None:
        log.write(logging.WARNING if fd == _STDERR else logging.INFO, line)

    return write
