"""The page "When something is wrong": the words of errors that it lists are those of errors that there are."""

import ast
import re
from collections.abc import Iterator

from page_blocks import ROOT


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_quoted_error_is_raised_somewhere() -> None:
    page = (ROOT / "docs" / "wrong.md").read_text(encoding="utf-8")
    quoted = [words for line in page.splitlines() for words in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", line)]
    sources = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "aimwrap").rglob("*.py")]
    raised = "\n".join(text for tree in sources for text in texts(tree))
    assert len(quoted) > 15 and [words for words in quoted if words not in raised] == []
