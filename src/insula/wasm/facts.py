"""What the compiler's child found out about a module, kept beside its code."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Places(NamedTuple):
    """Where the instructions of a module that was rewritten came from: from each offset of `rewritten` (ascending) on, up
    to the next, the file is the original's from that of `original` on. `functions` is how many the original has."""

    rewritten: Sequence[int] = ()
    original: Sequence[int] = ()
    functions: int = 1 << 32

    def place(self, offset: int) -> int | None:
        """The offset in the original file; None where it is not known."""
        if not self.rewritten:
            return offset
        at = bisect_right(self.rewritten, offset) - 1
        return self.original[at] + offset - self.rewritten[at] if at >= 0 else None


#: Of a module that was not rewritten.
AS_THEY_ARE = Places()


class Facts(NamedTuple):
    """`sha256` is that of the code."""

    sha256: str
    places: Places = AS_THEY_ARE

    def text(self) -> str:
        """All of it as one line of ASCII."""
        return json.dumps([self.sha256, *self.places], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Facts:
        """The facts out of their text; ValueError."""
        try:
            sha256, rewritten, original, functions = json.loads(text)
            numbers = [functions, *rewritten, *original]
        except TypeError:
            raise ValueError("not the facts of a module") from None
        if not isinstance(sha256, str) or len(sha256) != 64 or len(rewritten) != len(original):
            raise ValueError("not the facts of a module")
        if not all(type(number) is int for number in numbers):
            raise ValueError("not the facts of a module")
        return cls(sha256, Places(rewritten, original, functions))
