"""The documents and their fenced blocks."""

import re
from pathlib import Path
from typing import NamedTuple

from helpers.support import ROOT

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


BLOCK = re.compile(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is named after, its text, its line in the document."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    text = path.read_text("utf-8")
    return [
        Block(found[1], found[2], found[3], text.count("\n", 0, found.start()) + 1) for found in BLOCK.finditer(text)
    ]


class Part(NamedTuple):
    """The blocks between a heading of a document and the next one, at least one."""

    heading: str
    blocks: list[Block]


def parts(path: Path) -> list[Part]:
    """The parts of a document that have blocks, in their order."""
    # A comment in a block is no heading.
    text = BLOCK.sub(lambda found: "\n" * found[0].count("\n"), path.read_text("utf-8"))
    headings = [(text.count("\n", 0, found.start()) + 1, found[1]) for found in HEADING.finditer(text)]
    made: list[Part] = []
    for block in blocks(path):
        line, heading = max(one for one in headings if one[0] < block.line)
        if not made or made[-1] != (heading, made[-1].blocks) or line > made[-1].blocks[0].line:
            made.append(Part(heading, []))
        made[-1].blocks.append(block)
    return made
