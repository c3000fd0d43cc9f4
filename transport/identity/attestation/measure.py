"""What an embedded attester measures of the program that runs: `measure`.

The measure is a text, the *manifest*, with one line for each thing measured, and three
registers that are made of its lines as a TPM extends a register from zero:

    PCR = SHA-384(48 zero bytes ‖ SHA-384(lines))

    PCR0  all lines
    PCR1  the lines of the platform: `python`, `package` and `environment`
    PCR2  the lines of the application: `script`

A `package` line is one file of this package: SHA-384 of its content, and its path. The
compiled files of CPython and the benchmarks, which are no part of the library, are left
out, so a checkout and an installation measure alike. A `script` line is one file of the
script: the file itself and every module that it imports, directly or not, from its own
folder; or, if a folder is given, every file in it. An `environment` line is the name and
version of one installed distribution: *not* its content. Lines are sorted, so the same
files give the same registers anywhere.

This is a program's statement about itself. It shows what an honest program is; nothing
stops a dishonest one from issuing the same. docs/explanation/attestation.md says more.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Final

from ...errors import UsageError
from ..keys import StrPath
from .document import PCR_SIZE

__all__ = ["Measurement", "extended", "measure"]

HEADER: Final = "sealfabric measure 1"
FILES_LIMIT: Final = 20_000  # of a script's folder

_PACKAGE: Final = Path(__file__).resolve().parents[2]
_NOT_MEASURED: Final = frozenset({"__pycache__"})
_BENCHMARKS: Final = "bench"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The lines of a manifest, each in its group, and what they come to."""

    platform: tuple[str, ...]
    application: tuple[str, ...]

    @property
    def manifest(self) -> str:
        """The text that PCR0 measures: a header and all lines."""
        return _text((*self.platform, *self.application))

    @property
    def pcr0(self) -> bytes:
        """48 bytes over everything."""
        return extended(self.manifest.encode("utf-8"))

    @property
    def pcr1(self) -> bytes:
        """48 bytes over Python, this package and the environment."""
        return extended(_text(self.platform).encode("utf-8"))

    @property
    def pcr2(self) -> bytes:
        """48 bytes over the script."""
        return extended(_text(self.application).encode("utf-8"))

    def registers(self) -> dict[int, bytes]:
        """The three registers by their index."""
        return {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}


def measure(script: StrPath | None = None) -> Measurement:
    """Measure this package, the environment, and `script`, a file or a folder.

    Without `script` only the platform is measured.

    Raises:
        UsageError: something cannot be read, or the script is not a program.
    """
    try:
        return Measurement(
            platform=(_python(), *_package_lines(), *_environment_lines()),
            application=() if script is None else tuple(_script_lines(Path(script).resolve())),
        )
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be measured: {error.strerror}") from error


def running_script() -> Path | None:
    """Return the file of the program that runs, or None, as at an interactive prompt."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if file is None else Path(file)


def extended(content: bytes) -> bytes:
    """Return a register extended once from zero by SHA-384 of `content`."""
    return hashlib.sha384(bytes(PCR_SIZE) + hashlib.sha384(content).digest()).digest()


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (HEADER, *lines))


def _python() -> str:
    return f"python {sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))}"


def _package_lines() -> Iterator[str]:
    files = (path for path in _files(_PACKAGE) if path.parts[0] != _BENCHMARKS)
    for path in files:
        yield _line("package", _PACKAGE / path, path)


def _environment_lines() -> list[str]:
    found = set()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed distribution has none
            canonical = re.sub(r"[-_.]+", "-", name).lower()
            found.add(f"environment {canonical}=={distribution.version}")
    return sorted(found)


def _script_lines(script: Path) -> Iterator[str]:
    if script.is_dir():
        folder, files = script, _files(script)
    else:
        folder, files = script.parent, _imported_files(script)
    if not files:
        raise UsageError(f"{script} holds nothing to measure")
    for path in files:
        yield _line("script", folder / path, path)


def _files(folder: Path) -> list[Path]:
    """The files below `folder`, relative to it, in the order of their names' bytes."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_MEASURED]
        found += [
            (Path(parent) / name).relative_to(folder)
            for name in files
            if not name.endswith((".pyc", ".pyo"))
        ]
        if len(found) > FILES_LIMIT:
            raise UsageError(f"{folder} holds more than {FILES_LIMIT} files")
    return _in_order(found)


def _imported_files(script: Path) -> list[Path]:
    """The script and the modules of its own folder that it imports, relative to it.

    They are found without running anything, so what a program imports under a name
    that it makes up as it runs is not among them.
    """
    folder = script.resolve().parent
    finder = ModuleFinder(path=[str(folder)])
    try:
        finder.run_script(str(script))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{script} is not a Python program: {error}") from None
    modules = (getattr(module, "__file__", None) for module in finder.modules.values())
    found = {Path(file).resolve() for file in modules if file is not None}
    return _in_order({path.relative_to(folder) for path in found if path.is_relative_to(folder)})


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: os.fsencode(path.as_posix()))


def _line(kind: str, file: Path, shown: Path) -> str:
    name = shown.as_posix()
    if not name.isprintable():
        # A name with a line break in it could pass for another line.
        raise UsageError(f"a file whose name cannot be printed: {name!r}")
    digest = hashlib.sha384()
    # O_NONBLOCK: opening a FIFO must not hang; regular files ignore it.
    with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise UsageError(f"{file} is not a regular file")
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"{kind} {digest.hexdigest()} {name}"
