"""What every ABI has to say of a guest that gives no memory."""

from __future__ import annotations

from typing import NoReturn

from insula.errors import GuestError
from insula.wasm.contract import Guest


def no_room(guest: Guest, export: str, size: int) -> NoReturn:
    """Raises for a helper export that answered 0, which is no memory: LimitError where its memory could not grow, else
    GuestError."""
    what = f"the guest has no memory for {max(1, size)} bytes"
    raise guest.shortage(what) or GuestError(f"{what}, though no growth was refused: its {export} answered 0")
