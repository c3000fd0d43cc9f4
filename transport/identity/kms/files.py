"""Private files of a key service: opened and created so that only their owner sees them."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ...errors import UsageError


def open_private(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file that only its owner may access.

    A file that is created has mode 0600. An existing one that others may access is
    refused rather than narrowed, since its content may be known or changed already.

    Raises:
        UsageError: it cannot be opened, is not a regular file, or others may access it.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang; regular files ignore it.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(
                f"{path} has mode {mode:04o}, so others may know or change its content; "
                f"expected 0600"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_new_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600, durably: complete or absent.

    Raises:
        UsageError: `path` exists, or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask says
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            path.hardlink_to(beside)  # unlike a rename, fails where `path` exists
        finally:
            with suppress(OSError):
                beside.unlink()
        sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists already; it was left as it is") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make new directory entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
