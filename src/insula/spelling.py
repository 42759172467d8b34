"""What somebody most likely meant who wrote a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Characters of a name, and names, that are compared: both may be a stranger's, and a comparison takes their product.
_LONGEST = 128
_MOST = 5_000


def nearest(wrong: str, known: Iterable[str], *, least: float = 0.6) -> str | None:
    """The known name that is most like a wrong one, whatever its case; None where none is alike. `least` is how alike it
    has to be, from 0 (anything) to 1 (the same)."""
    folded = {name.lower(): name for _, name in zip(range(_MOST), known, strict=False)}
    found = difflib.get_close_matches(wrong.lower()[:_LONGEST], folded, n=1, cutoff=least)
    return folded[found[0]] if found else None
