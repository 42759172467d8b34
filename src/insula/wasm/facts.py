"""The facts of a module that the server cannot ask the C API for: found by the compiler's child, kept beside the code."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias


class Places(NamedTuple):
    """Maps offsets in a rewritten module to the original file. The bytes from `rewritten[n]` up to `rewritten[n + 1]` come
    from `original[n]` on. `functions` is the number of functions that the original has."""

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


#: The type of an export by the number of the export: what it takes, and what it gives.
Types: TypeAlias = Mapping[int, tuple[Sequence[str], Sequence[str]]]


class Facts(NamedTuple):
    """`sha256` is that of the code. `vectors` are the types of exported functions with a value that is no number: the C
    API ends the process where it is asked for such a type."""

    sha256: str
    places: Places = AS_THEY_ARE
    vectors: Types = MappingProxyType({})

    def text(self) -> str:
        """All of it as one line of ASCII."""
        vectors = [(number, *kinds) for number, kinds in self.vectors.items()]
        return json.dumps([self.sha256, *self.places, vectors], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Facts:
        """The facts out of their text; ValueError."""
        try:
            sha256, rewritten, original, functions, vectors = json.loads(text)
            whole = len(sha256) == 64 and len(rewritten) == len(original)
            numbers = [functions, *rewritten, *original, *(number for number, _, _ in vectors)]
            kinds = [kind for _, params, results in vectors for kind in (*params, *results)]
        except TypeError:
            raise ValueError(_WRONG) from None
        if not whole or {type(number) for number in numbers} != {int} or {type(kind) for kind in kinds} - {str}:
            raise ValueError(_WRONG)
        places = Places(rewritten, original, functions)
        return cls(sha256, places, {number: (params, results) for number, params, results in vectors})


_WRONG = "these are not the facts of a module"
