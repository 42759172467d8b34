"""What commands print: aligned plain text for people, so that it can be read, grepped and pasted, and JSON for programs.

There is no colour and there are no boxes: a table in a terminal, a file and a bug report look the same. What comes from
packages, services, servers and files is escaped here, as it may hold line ends and control characters of a terminal. An
error is written by `failures`, by the same rule; nothing else prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from insula.logs import escaped


def line(text: str = "") -> None:
    """One line of text for people."""
    print(escaped(text))


def lines(text: str) -> None:
    """A text of many lines for people, whole however long it is."""
    for each in text.split("\n"):
        print(escaped(each, limit=1 << 30))


def aside(text: str) -> None:
    """One line on stderr, beside what is printed for programs."""
    print(escaped(text), file=sys.stderr)


def as_it_came(answer: bytes) -> None:
    """An answer for a program or a file, unchanged."""
    print(answer.decode("utf-8", "replace"))


def as_json(value: Any) -> None:
    """A value for programs, on lines of its own."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    cells = [[escaped(cell, limit=200) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """`name  value` lines, the values aligned."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        line(f"{name.ljust(width)}  {value}")


def milliseconds(value: float) -> str:
    """`0.4 ms`, `41 ms`, `1.2 s`."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


class Progress:
    """How much of an upload has gone, and then that the server is at work, on one line of stderr that is gone at the end;
    nothing where stderr is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, max(total, 1), 0
        self._shown = -1
        self._on = sys.stderr.isatty()

    def add(self, size: int) -> None:
        """So many more bytes have gone."""
        self._done += size
        percent = min(100, self._done * 100 // self._total)
        if self._on and percent != self._shown:
            self._shown = percent
            said = f"{percent} %" if percent < 100 else "done; the server checks and compiles it"
            print(f"\r{escaped(self._what)}: {said}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the line away."""
        if self._on and self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
