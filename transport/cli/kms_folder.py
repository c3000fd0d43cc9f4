"""How the commands of `sealfabric kms` unlock a key folder: a file, or the terminal."""

from __future__ import annotations

import argparse
import getpass
import sys
import time

from ..errors import UsageError
from ..identity.kms import KeyFolder, Unlocking


def open_folder(arguments: argparse.Namespace) -> KeyFolder:
    """Unlock the folder that the arguments name."""
    return KeyFolder.open(arguments.folder, unlocking(arguments), clock=time.time)


def unlocking(arguments: argparse.Namespace, *, twice: bool = False) -> Unlocking:
    """What unlocks the store: a file that was named, or a passphrase from the terminal.

    Raises:
        UsageError: a file is not usable, or there is neither a file nor a terminal.
    """
    if arguments.key_file is not None:
        return Unlocking.key_file(arguments.key_file)
    if arguments.passphrase_file is not None:
        return Unlocking.passphrase_file(arguments.passphrase_file)
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for a passphrase: name --passphrase-file or --key-file"
        )
    text = getpass.getpass("Passphrase of the key store: ")
    if twice and text != getpass.getpass("The same again: "):
        raise UsageError("the two passphrases differ")
    return Unlocking.passphrase(text)
