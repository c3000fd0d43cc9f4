"""A node's identity: one static X25519 key pair, and the private file it is kept in.

Invariants: the private key leaves an `Identity` only into that file; the file is
readable by its owner alone, before it has content and ever after; a file that
others can read is refused rather than used, since its key may be known to them.

The file is two lines of text: a header with the format's version, and the private
key (RFC 7748, 32 bytes) in base64.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..crypto.primitives import X25519, X25519_LEN, KeyHolder
from ..errors import UsageError

__all__ = ["Identity", "StrPath", "fingerprint", "read_private_file"]

StrPath: TypeAlias = str | os.PathLike[str]

PRIVATE_FILE_LIMIT = 4096  # bytes; identities and secrets are far smaller
_HEADER = b"sealfabric identity 1"
_OTHERS_READ_OR_WRITE = stat.S_IRWXG | stat.S_IRWXO
_FINGERPRINT_BYTES = 15  # of SHA-256: 24 base32 digits, 120 bits against a second preimage


class Identity(KeyHolder):
    """A static X25519 key pair that names a node to its peers.

    Immutable, and safe to share between threads. It cannot be copied or pickled:
    every process loads its own.

    Raises:
        UsageError: `private` is not 32 bytes.
    """

    __slots__ = ("_keypair",)

    def __init__(self, private: bytes | bytearray) -> None:
        self._keypair = X25519(private)

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] | None = None) -> Identity:
        """Return a new identity; `entropy(length)` replaces the system's in tests."""
        return cls((entropy or os.urandom)(X25519_LEN))

    @classmethod
    def load(cls, path: StrPath) -> Identity:
        """Return the identity saved at `path`.

        Raises:
            UsageError: the file cannot be read, others may access it, or it is not
                an identity file of this version.
        """
        lines = bytes(read_private_file(path)).splitlines()
        if len(lines) != 2 or lines[0] != _HEADER:
            raise UsageError(
                f"{os.fspath(path)} is not an identity file: "
                f"expected two lines, the first {_HEADER.decode()!r}"
            )
        try:
            private = base64.b64decode(lines[1], validate=True)
        except binascii.Error:
            raise UsageError(f"{os.fspath(path)}: the key is not valid base64") from None
        if len(private) != X25519_LEN:
            raise UsageError(
                f"{os.fspath(path)}: the key is {len(private)} bytes long, not {X25519_LEN}"
            )
        return cls(private)

    @classmethod
    def from_environment(cls, rank: int | None = None) -> Identity:
        """Return the identity in the file that SEALFABRIC_IDENTITY names.

        Where `rank` is given, `{rank}` in the path stands for it: ranks that a launcher
        starts with the same environment have a file each.

        Raises:
            UsageError: it is not set, or the file is not usable.
        """
        path = os.environ.get("SEALFABRIC_IDENTITY")
        if not path:
            raise UsageError(
                "no identity is configured: set SEALFABRIC_IDENTITY to the path of a key file "
                "(sealfabric keygen PATH)"
            )
        return cls.load(path if rank is None else path.replace("{rank}", str(rank)))

    def save(self, path: StrPath, *, overwrite: bool = False) -> None:
        """Write the private key to `path` with mode 0600, durably.

        The file is complete or absent: a replacement is written beside the old file
        and renamed over it, and a new file that cannot be finished is removed.

        Raises:
            UsageError: `path` exists and `overwrite` is false, or cannot be written.
        """
        key = base64.b64encode(self._keypair.private_bytes_exposed())
        content = _HEADER + b"\n" + key + b"\n"
        target = Path(path)
        try:
            if overwrite:
                beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
                _write_new(beside, content)
                _rename(beside, target)
            else:
                _write_new(target, content)
            _sync_folder(target.parent)
        except FileExistsError:
            raise UsageError(f"{target} exists already; it was left as it is") from None
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror}") from error

    @property
    def public_key(self) -> bytes:
        """The 32-byte X25519 public key, to be listed in the peers' `Trust`."""
        return self._keypair.public

    @property
    def fingerprint(self) -> str:
        """A short name of the public key to read out and compare; see `fingerprint`."""
        return fingerprint(self.public_key)

    @property
    def keypair(self) -> X25519:
        """The key pair, for `HandshakeState`; it computes DH but shows no private key."""
        return self._keypair

    def __repr__(self) -> str:
        return f"<Identity {self.fingerprint}>"


def fingerprint(public_key: bytes) -> str:
    """Return `SF1-` and six groups of four base32 digits of SHA-256(`public_key`).

    Raises:
        UsageError: `public_key` is not 32 bytes.
    """
    if len(public_key) != X25519_LEN:
        raise UsageError(f"a public key is {X25519_LEN} bytes long, got {len(public_key)}")
    digest = hashlib.sha256(public_key).digest()[:_FINGERPRINT_BYTES]
    digits = base64.b32encode(digest).decode("ascii")
    return "-".join(["SF1", *(digits[at : at + 4] for at in range(0, len(digits), 4))])


def read_private_file(path: StrPath) -> bytearray:
    """Return the content of a file that only its owner may access, to be wiped after use.

    Raises:
        UsageError: the file cannot be read, is not a regular file, is accessible to
            its group or to others, or is larger than 4096 bytes.
    """
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a FIFO must not hang; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            # The open file is examined, not the path, which could be swapped meanwhile.
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{name} is not a regular file")
            mode = stat.S_IMODE(status.st_mode)
            if mode & _OTHERS_READ_OR_WRITE:
                raise UsageError(
                    f"{name} has mode {mode:04o}, so others may know its content; "
                    f"expected 0600 (chmod 600 protects it from now on)"
                )
            content = bytearray(file.read(PRIVATE_FILE_LIMIT + 1))
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > PRIVATE_FILE_LIMIT:
        raise UsageError(f"{name} is larger than {PRIVATE_FILE_LIMIT} bytes")
    return content


def _write_new(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 and `content`, synced; remove it if that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            source.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make the new directory entry durable too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
