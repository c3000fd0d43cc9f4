"""Reads the project's documentation: files, headings, links, tables and blocks of code."""

from __future__ import annotations

import re
from pathlib import Path

from .source_tree import PROJECT_ROOT

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.M | re.S)
_HEADING = re.compile(r"^#+ (.+)$", re.M)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[Path]:
    """Return every Markdown file of the project, sorted."""
    return sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])


def read(relative_path: str) -> str:
    """Return the text of one file of the project."""
    return (PROJECT_ROOT / relative_path).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of code in one language, in order."""
    return [found["body"] for found in _FENCE.finditer(text) if found["language"] == language]


def prose(text: str) -> str:
    """Return the text without its blocks of code."""
    return _FENCE.sub("", text)


def headings(text: str) -> list[str]:
    """Return the headings, without their marks."""
    return _HEADING.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Return what links may point to inside a document, as GitHub makes it."""
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings(text)}


def links(text: str) -> list[str]:
    """Return the targets of all links."""
    return _LINK.findall(prose(text))


def table(text: str, *columns: str) -> list[list[str]]:
    """Return the rows of the first table whose heading begins with `columns`.

    Raises:
        AssertionError: there is none.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if _cells(line)[: len(columns)] == list(columns):
            next(lines)  # the rule below the heading
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise AssertionError(f"no table with the columns {', '.join(columns)}")


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of any level.

    Raises:
        AssertionError: there is no such heading.
    """
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert found, f"no heading {heading!r}"
    return found[1]


def names(cell: str) -> list[str]:
    """Return what a cell sets in code: `| `a`, `b` |` holds a and b."""
    return re.findall(r"`([^`]+)`", cell)


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
