"""Private memory that one process writes and one other reads.

A segment is an anonymous file of the kernel (memfd): it has no name in any file
system, so there is nothing to guess, nothing to collect after a crash, and it is
gone when the last process that maps it is. A full or absent /dev/shm does not
concern it. The peer finds it as a descriptor in /proc, which the kernel opens
only to processes of the same user and pid namespace that may inspect its owner.

After the owner has mapped it, the file is sealed (fcntl(2), F_ADD_SEALS): it
neither shrinks nor grows, no page can be taken out of it, and nobody can make
another mapping that writes. So:

- reading it cannot end in SIGBUS;
- nobody but the owner changes it, so a packet may be opened where it lies. On
  processors without vector AES, OpenSSL reads ciphertext once to authenticate
  and once more to decrypt: whoever could write between the two would choose the
  plaintext. The one that still can is the peer, which has the keys and could as
  well have sealed what it likes.

Whoever can trace the owner's process (ptrace) can write its memory, its keys
included; that is beyond what any transport protects against.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha512
from hmac import compare_digest
from typing import Final

from ...errors import TransportError, UsageError
from ...wire import codec
from .layout import NONCE, PAGE, Layout

SIZE_LIMIT: Final = 256 * 1024 * 1024  # bytes of a segment, ours or a peer's
CLAIM_LIMIT: Final = 256  # bytes of an encoded claim

_MFD_NOEXEC_SEAL: Final = 0x0008  # <linux/memfd.h>, from Linux 6.3 on
_F_SEAL_FUTURE_WRITE: Final = 0x0010  # <linux/fcntl.h>, from Linux 5.1 on
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
_WORD_MAX: Final = (1 << 64) - 1


class UnavailableError(TransportError):
    """Shared memory cannot be had with this peer, here or now; other paths serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Where a process says that its segment and its bell are; proven by the nonce inside."""

    boot: bytes  # of the host
    namespace: int  # in which `process` means something
    user: int
    process: int
    segment: int  # descriptors of that process
    bell: int
    layout: Layout
    nonce: bytes = field(repr=False)

    def encode(self) -> bytes:
        """At most `CLAIM_LIMIT` bytes, for a sealed frame."""
        return codec.pack(
            {
                "boot": self.boot,
                "ns": self.namespace,
                "user": self.user,
                "pid": self.process,
                "mem": self.segment,
                "bell": self.bell,
                "ring": self.layout.ring,
                "slot": self.layout.slot,
                "slots": self.layout.slots,
                "nonce": self.nonce,
            }
        )

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> Claim:
        """Read what a peer claims.

        Raises:
            MalformedError: not a claim, or beyond every limit.
        """
        fields = codec.unpack(encoded, limit=CLAIM_LIMIT)

        def number(name: str) -> int:
            return codec.integer(fields, name, 0, _WORD_MAX)

        try:
            layout = Layout(ring=number("ring"), slot=number("slot"), slots=number("slots"))
        except UsageError as error:
            raise codec.MalformedError(str(error)) from None
        return cls(
            boot=codec.octets(fields, "boot", 16),
            namespace=number("ns"),
            user=number("user"),
            process=number("pid"),
            segment=number("mem"),
            bell=number("bell"),
            layout=layout,
            nonce=codec.octets(fields, "nonce", NONCE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What must be the same on both sides before either looks for the other's memory."""

    boot: bytes
    namespace: int
    user: int

    @classmethod
    def here(cls) -> Host:
        """This process's.

        Raises:
            UnavailableError: /proc does not tell.
        """
        try:
            # Not as text: a process that has given up its privileges may find no codec.
            with open("/proc/sys/kernel/random/boot_id", "rb") as file:
                boot = bytes.fromhex(file.read().decode().strip().replace("-", ""))
            namespace = os.stat("/proc/self/ns/pid").st_ino
        except (OSError, ValueError) as error:
            raise UnavailableError(f"/proc does not say which host this is: {error}") from None
        return cls(boot=boot, namespace=namespace, user=os.geteuid())

    @property
    def digest(self) -> bytes:
        """32 bytes that tell another process only whether it is on the same one."""
        facts = self.boot + self.namespace.to_bytes(8, "big") + self.user.to_bytes(8, "big")
        return sha512(b"sealfabric 1 host" + facts).digest()[:32]

    def shared_with(self, claim: Claim) -> bool:
        """Whether the claim is of this very host, namespace and user."""
        return (self.boot, self.namespace, self.user) == (claim.boot, claim.namespace, claim.user)


class Segment:
    """A mapped segment; `memory` is writable for its owner alone."""

    __slots__ = ("descriptor", "device", "layout", "mapped", "memory")

    def __init__(self, mapped: mmap.mmap, layout: Layout, descriptor: int, device: int) -> None:
        # Two processes of which the kernel knows one: a forked child has no part in it.
        mapped.madvise(mmap.MADV_DONTFORK)
        self.mapped = mapped
        self.layout = layout
        self.descriptor = descriptor
        """By which the peer finds it; -1 once `hide` was called, or where it is the peer's."""
        self.device = device
        self.memory = memoryview(mapped)

    @property
    def words(self) -> memoryview:
        """The first page as 64-bit words."""
        return self.memory[:PAGE].cast("Q")

    def slot_offset(self, index: int) -> int:
        """Where slot `index` begins."""
        return PAGE + self.layout.ring + index * self.layout.slot_stride

    def hide(self) -> None:
        """The peer has mapped it: let go of the descriptor that it was found by."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """Let go of the memory; it is unmapped when nothing refers into it any more."""
        if not hasattr(self, "mapped"):
            return
        self.hide()
        self.memory = memoryview(b"")
        # Somebody may still read a packet in it: then the last such reference unmaps it.
        with suppress(BufferError):
            self.mapped.close()
        del self.mapped


def create(layout: Layout, nonce: bytes) -> Segment:
    """Make a segment that this process alone will ever write.

    All of its memory exists on return: there is no later moment at which the
    system could find that it has none left.

    Raises:
        UnavailableError: the system has no memory, descriptor or means for it.
    """
    if layout.size > SIZE_LIMIT:
        raise UnavailableError(f"a segment of {layout.size} bytes exceeds {SIZE_LIMIT}")
    try:
        descriptor = _anonymous_file()
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"no shared memory from the system: {error}") from None
    try:
        os.fchmod(descriptor, stat.S_IRUSR)
        os.posix_fallocate(descriptor, 0, layout.size)
        mapped = _mapped(descriptor, layout.size, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped[:NONCE] = nonce
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        if not is_written_by_nobody_else(descriptor):
            raise UnavailableError("another process opened the segment before it was sealed")
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, (OSError, ValueError)):
            raise UnavailableError(f"no segment of {layout.size} bytes: {error}") from None
        raise
    return Segment(mapped, layout, descriptor, os.fstat(descriptor).st_dev)


def _anonymous_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("sealfabric", flags | _MFD_NOEXEC_SEAL)
    except OSError:  # a kernel that does not know the flag
        return os.memfd_create("sealfabric", flags)


def _mapped(descriptor: int, size: int, protection: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED  # not populated: what is never used is never touched either
    if sys.version_info >= (3, 13):
        # Else the mapping keeps a descriptor of its own, by which the file can still be found.
        return mmap.mmap(descriptor, size, flags=flags, prot=protection, trackfd=False)
    return mmap.mmap(descriptor, size, flags=flags, prot=protection)


def is_written_by_nobody_else(descriptor: int) -> bool:
    """Whether nobody has opened this new file for writing, or mapped it so and closed it.

    Between its creation and its seals any process of the user can open a file
    that it finds in /proc, and what it has mapped by then stays writable. The kernel
    grants a read lease only where no opening for writing exists (fcntl(2),
    F_SETLEASE); the one that the file was made with does not count.

    Raises:
        OSError: the kernel knows no leases on such files.
    """
    opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Who opens it at this very moment breaks the lease, and the kernel tells us so by
        # a signal: by one that is ignored unless somebody asked for it.
        fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True


def attach(claim: Claim, device: int) -> Segment:
    """Map the segment that a peer claims to have made, for reading.

    `device` is that of a segment of our own: all such files have the same.

    Raises:
        UnavailableError: it is not there, not ours to see, or not what it should be.
    """
    layout = claim.layout
    if layout.size > SIZE_LIMIT:
        raise UnavailableError(f"the peer's segment of {layout.size} bytes exceeds {SIZE_LIMIT}")
    try:
        descriptor = open_of(claim.process, claim.segment, stat.S_IFREG, os.O_RDONLY, device)
        try:
            facts = os.fstat(descriptor)
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            if facts.st_size != layout.size or facts.st_blocks * 512 < layout.size:
                raise UnavailableError(
                    f"the peer's segment has {facts.st_size} bytes, expected {layout.size}"
                )
            if seals & _SEALS != _SEALS:
                raise UnavailableError(f"the peer's segment is not sealed: {seals:#x}")
            mapped = _mapped(descriptor, layout.size, mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise UnavailableError(f"the peer's segment cannot be mapped: {error}") from None
    if not compare_digest(mapped[:NONCE], claim.nonce):
        mapped.close()
        raise UnavailableError("the memory found is not the peer's: another nonce lies in it")
    return Segment(mapped, layout, -1, device)


def open_of(process: int, descriptor: int, kind: int, flags: int, device: int | None) -> int:
    """Open what another process of this user has open, if it is of the `kind` expected.

    It is looked at before it is opened: merely opening a device or a tape can do
    something.

    Raises:
        OSError: it is not there, or not ours to see.
        UnavailableError: it is something else.
    """
    found = os.open(f"/proc/{process}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
    try:
        facts = os.fstat(found)
        if stat.S_IFMT(facts.st_mode) != kind or (device is not None and facts.st_dev != device):
            raise UnavailableError("the peer's descriptor is of another kind")
        if facts.st_uid != os.geteuid():
            raise UnavailableError(f"the peer's descriptor belongs to user {facts.st_uid}")
        return os.open(f"/proc/self/fd/{found}", flags | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        os.close(found)
