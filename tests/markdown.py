"""Markdown as its tests see it: blocks of code with their language, headings, links, and code within lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"```(\w*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """One block of code. An indented one has no language of its own and is `sh`: that is what the short READMEs have."""

    language: str
    text: str
    line: int


class Document:
    """One file, taken apart once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks: list[Block] = []
        prose: list[str] = []
        lines = path.read_text(encoding="utf-8").splitlines()
        at = 0
        while at < len(lines):
            line, first = lines[at], at + 1
            if fence := _FENCE.match(line):
                end = next(place for place in range(at + 1, len(lines)) if lines[place] == "```")
                self.blocks.append(Block(fence[1], "\n".join(lines[at + 1 : end]), first))
                at = end + 1
            elif line.startswith("    ") and (not prose or not prose[-1]):
                end = next(
                    (place for place in range(at, len(lines)) if not lines[place].startswith("    ")), len(lines)
                )
                self.blocks.append(Block("sh", "\n".join(text[4:] for text in lines[at:end]), first))
                at = end
            else:
                prose.append(line)
                at += 1
        self.prose = "\n".join(prose)

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return _LINK.findall(_INLINE.sub("", self.prose))

    @property
    def inline(self) -> list[str]:
        """The code within its lines."""
        return [" ".join(text.split()) for text in _INLINE.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """What `#` may lead to."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(block: Block) -> list[str]:
    """The command lines of a shell block; one that goes on behind a backslash is one."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
