"""The project's own source, as text and syntax trees, for tests that hold its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "transport"
IMPORTING_CALLS = {"import_module", "__import__"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file: its dotted name, its text and its syntax tree."""

    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import, wherever in a module it stands: at the top or inside a function."""

    target: str
    line: int


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below these top-level folders, sorted; missing ones are empty."""
    found = (path for folder in folders for path in (PROJECT_ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


def relative(path: Path) -> str:
    """Return a path as the repository's reader knows it."""
    return path.relative_to(PROJECT_ROOT).as_posix()


def load(path: Path) -> Module:
    """Return the module in a file of the project."""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name=name, text=path.read_text(encoding="utf-8"), is_package=is_package)


def imports(module: Module) -> Iterator[Import]:
    """Yield what a module imports, by absolute name.

    `from package import name` is `package.name`, whether or not that is a module.
    Calls of `import_module` and `__import__` with a literal name count, too.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(target=alias.name, line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from (
                Import(target=f"{base}.{alias.name}", line=node.lineno) for alias in node.names
            )
        elif isinstance(node, ast.Call) and called_name(node) in IMPORTING_CALLS:
            literals = (name for name in node.args[:1] if isinstance(name, ast.Constant))
            yield from (Import(target=str(name.value), line=node.lineno) for name in literals)


def called_name(call: ast.Call) -> str:
    """Return the last part of what a call names: `a.b.c()` is `c`; others are empty."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.name.split(".")
    kept = len(parts) - node.level + (1 if module.is_package else 0)
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])
