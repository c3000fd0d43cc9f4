"""`sealfabric keygen`: a new identity, or a new cluster secret, in a private file.

A file is complete or absent, has mode 0600 before it has content, and is never
replaced unless that was asked for. No private key or secret is printed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from ..errors import UsageError
from ..identity.keys import Identity

SECRET_SIZE: Final = 32  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command."""
    parser.add_argument("path", type=Path, metavar="PATH", help="file to write, mode 0600")
    parser.add_argument(
        "--secret",
        action="store_true",
        help=f"write a cluster secret of {SECRET_SIZE} random bytes instead of an identity",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Write the file and print what may be known of it; return the exit status."""
    path: Path = arguments.path
    if arguments.secret:
        write_secret(path, overwrite=arguments.force)
        print(f"secret       {path} ({SECRET_SIZE} bytes, mode 0600)")
        print("Give every node of the cluster a copy, and its path in SEALFABRIC_SECRET_FILE.")
        return 0
    identity = Identity.generate()
    identity.save(path, overwrite=arguments.force)
    print(f"identity     {path} (mode 0600)")
    print(f"public key   {base64.b64encode(identity.public_key).decode()}")
    print(f"fingerprint  {identity.fingerprint}")
    return 0


def write_secret(path: Path, *, overwrite: bool = False) -> None:
    """Write a new cluster secret to `path`, mode 0600.

    Raises:
        UsageError: `path` exists and `overwrite` is false, or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask says
                file.write(secrets.token_bytes(SECRET_SIZE))
                file.flush()
                os.fsync(descriptor)
            if overwrite:
                beside.replace(path)
            else:
                path.hardlink_to(beside)  # unlike a rename, fails where `path` exists
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except FileExistsError:
        raise UsageError(f"{path} exists already; it was left as it is") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
