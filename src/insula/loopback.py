"""Which host names and addresses are this machine's own, whatever a name server says."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether what answers to this name or address literal can be reached from this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0]).is_loopback
    except ValueError:
        return False
