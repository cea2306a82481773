"""The pages of the documentation, and the blocks of code and command lines in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

import jaxcert as jc

ROOT = Path(jc.__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")),
]  # fmt: skip
SHARED = ROOT.parent / "shared" / "data"
SHELL = ("make ", "git ", "cd ", "pip ", "python ", "python3 ", "jaxcert ", "srun ",
         ".venv/bin/", "$ ")  # fmt: skip


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yields (language, content) of the blocks of code in a page."""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def lines(content: str) -> list[str]:
    """Returns the command lines of a block, those that are continued joined.

    One that begins with a prompt shows a single line, and what it prints.
    """
    if content.startswith("$ "):
        content = content.removeprefix("$ ").partition("\n")[0]
    joined = re.sub(r"\\\n\s*", "", content)
    return [line.partition("    #")[0].strip() for line in joined.splitlines() if line]


COMMAND_LINES = [
    (page.name, line)
    for page in PAGES
    for _, content in blocks(page)
    for line in lines(content)
    if content.startswith(SHELL) and line != "..."
]
