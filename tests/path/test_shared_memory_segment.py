"""Segments: who can write them, who can find them, what is refused, what is left behind."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.path.shared_memory.layout import MAX_RING, MIN_RING, NONCE, PAGE, Layout
from transport.path.shared_memory.segment import (
    Claim,
    Host,
    Segment,
    UnavailableError,
    attach,
    create,
    is_written_by_nobody_else,
)
from transport.wire.codec import MalformedError

SMALL = Layout(ring=MIN_RING, slot=1000, slots=2)
NONCE_OF_OURS = bytes(range(NONCE))
FUTURE_WRITE = 0x0010
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | FUTURE_WRITE


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = create(SMALL, NONCE_OF_OURS)
    yield made
    made.close()


def claim_of(made: Segment, /, **changed: object) -> Claim:
    host = Host.here()
    claim = Claim(
        boot=host.boot,
        namespace=host.namespace,
        user=host.user,
        process=os.getpid(),
        segment=made.descriptor,
        bell=0,
        layout=made.layout,
        nonce=NONCE_OF_OURS,
    )
    return replace(claim, **changed)  # type: ignore[arg-type]


def python(program: str, *arguments: object) -> str:
    """Run a program in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- there and back -----------------------------------------------------------------------------


def test_what_the_owner_writes_the_peer_reads(segment: Segment) -> None:
    peer = attach(claim_of(segment), segment.device)
    segment.memory[PAGE + 5 : PAGE + 9] = b"ring"
    segment.words[16] = 1 << 63
    offset = segment.slot_offset(1)
    segment.memory[offset : offset + 4] = b"slot"
    assert peer.memory[PAGE + 5 : PAGE + 9] == b"ring"
    assert peer.words[16] == 1 << 63
    assert peer.memory[offset : offset + 4] == b"slot"
    assert peer.memory.readonly
    with pytest.raises(TypeError):
        peer.memory[PAGE] = 1
    peer.close()


def test_parts_do_not_overlap() -> None:
    layout = Layout(ring=MIN_RING, slot=PAGE + 1, slots=3)
    assert layout.slot_stride == 2 * PAGE
    assert layout.size == PAGE + MIN_RING + 6 * PAGE


def test_the_memory_outlives_close_for_whoever_still_reads_it(segment: Segment) -> None:
    peer = attach(claim_of(segment), segment.device)
    segment.memory[PAGE : PAGE + 6] = b"packet"
    packet = peer.memory[PAGE : PAGE + 6]
    peer.close()
    segment.close()
    assert packet == b"packet"


@pytest.mark.parametrize(
    "sizes",
    [
        {"ring": MIN_RING - 1},
        {"ring": 3 * MIN_RING},
        {"ring": 2 * MAX_RING},
        {"slot": 0},
        {"slot": 1 << 40},
        {"slots": -1},
        {"slots": 65},
    ],
    ids=str,
)
def test_sizes_out_of_range(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Layout(**sizes)


# --- nobody else writes it ------------------------------------------------------------------------

_STRANGER = """
import ctypes, fcntl, mmap, os, sys
path, size = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action):
    try:
        action()
    except (OSError, ValueError) as error:
        print(name, "refused")
    else:
        print(name, "DONE")

def punch(descriptor):
    if libc.fallocate(descriptor, 3, ctypes.c_long(0), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), "fallocate")

try:
    os.chmod(path, 0o666)
    descriptor = os.open(path, os.O_RDWR)
except OSError:
    sys.exit(print("open refused"))
readable = mmap.mmap(os.open(path, os.O_RDONLY), size, prot=mmap.PROT_READ)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
attempt("map", lambda: mmap.mmap(descriptor, size))
attempt("write", lambda: os.pwrite(descriptor, b"evil", 4096))
attempt("shrink", lambda: os.ftruncate(descriptor, 0))
attempt("grow", lambda: os.ftruncate(descriptor, 2 * size))
attempt("punch", lambda: punch(descriptor))
attempt("unseal", lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE))
attempt("remove", lambda: readable.madvise(mmap.MADV_REMOVE))
"""


def test_another_process_of_the_same_user_cannot_change_it(segment: Segment) -> None:
    segment.memory[NONCE:] = bytes([0x5A]) * (SMALL.size - NONCE)
    before = bytes(segment.memory)
    said = python(_STRANGER, f"/proc/{os.getpid()}/fd/{segment.descriptor}", SMALL.size)
    assert "DONE" not in said
    assert len(said.splitlines()) == 7, said
    assert bytes(segment.memory) == before


def test_the_owner_itself_cannot_take_pages_from_under_the_reader(segment: Segment) -> None:
    peer = attach(claim_of(segment), segment.device)
    for attempt in (
        lambda: os.ftruncate(segment.descriptor, 0),
        lambda: os.pwrite(segment.descriptor, b"x", 0),
    ):
        with pytest.raises(PermissionError):
            attempt()
    assert len(bytes(peer.memory)) == SMALL.size
    peer.close()


def test_who_got_in_before_the_seals_is_noticed() -> None:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(descriptor, 0, PAGE)
    assert is_written_by_nobody_else(descriptor)
    reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    assert is_written_by_nobody_else(descriptor)
    os.close(reader)
    quick = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    assert not is_written_by_nobody_else(descriptor)
    mapped = mmap.mmap(quick, PAGE)
    os.close(quick)
    assert not is_written_by_nobody_else(descriptor), "its mapping can write as long as it lives"
    mapped.close()
    assert is_written_by_nobody_else(descriptor)
    os.close(descriptor)


def test_a_process_that_watches_for_new_segments_gets_none_that_it_can_write() -> None:
    """It opens whatever appears; what it had open in time was never used."""
    watcher = subprocess.Popen(
        [sys.executable, "-c", _WATCHER, str(os.getpid())], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    watcher.stdout.readline()
    made: list[Segment] = []
    refused = 0
    for _ in range(2000):
        try:
            made.append(create(SMALL, NONCE_OF_OURS))
        except UnavailableError:
            refused += 1
        if len(made) > 20:
            made.pop(0).close()
        if refused > 5:
            break
    inodes = {os.fstat(each.descriptor).st_ino for each in made}
    watcher.terminate()
    caught = set(map(int, watcher.stdout.read().split()))
    watcher.wait(30)
    assert not caught & inodes
    for each in made:
        each.close()


_WATCHER = """
import mmap, os, sys
folder = f"/proc/{sys.argv[1]}/fd"
print("ready", flush=True)
while True:
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        try:
            if "memfd" not in os.readlink(path):
                continue
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            mapped = mmap.mmap(descriptor, 0)
            mapped[4096:4100] = b"evil"
            print(os.fstat(descriptor).st_ino, flush=True)
        except (OSError, ValueError):
            pass
        os.close(descriptor)
"""


def test_the_file_cannot_be_run_and_has_no_name(segment: Segment) -> None:
    facts = os.fstat(segment.descriptor)
    assert facts.st_mode & 0o777 == 0o400
    assert facts.st_nlink == 0
    assert os.readlink(f"/proc/self/fd/{segment.descriptor}").endswith("(deleted)")


def test_a_forked_child_has_no_part_in_it(segment: Segment) -> None:
    inode = os.fstat(segment.descriptor).st_ino
    child = os.fork()
    if not child:
        maps = Path("/proc/self/maps").read_text()
        os._exit(any(line.split()[4] == str(inode) for line in maps.splitlines()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert str(inode) in Path("/proc/self/maps").read_text()


# --- what is refused ------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_bytes_that_are_no_claim(encoded: bytes) -> None:
    with pytest.raises(MalformedError):
        Claim.decode(encoded)


def test_a_claim_survives_its_encoding(segment: Segment) -> None:
    claim = claim_of(segment)
    assert Claim.decode(claim.encode()) == claim
    assert NONCE_OF_OURS.hex() not in repr(claim)
    assert repr(NONCE_OF_OURS) not in repr(claim)


@pytest.mark.parametrize(
    ("was", "becomes"), [(b"\xa4ring", b"\xa4rang"), (b"\xa4slot\xcd", b"\xa4slot\xce\xff\xff")]
)
def test_a_claim_beyond_limits(segment: Segment, was: bytes, becomes: bytes) -> None:
    encoded = claim_of(segment).encode()
    assert was in encoded
    with pytest.raises(MalformedError):
        Claim.decode(encoded.replace(was, becomes))


@pytest.mark.parametrize("field", ["boot", "namespace", "user"])
def test_another_host_namespace_or_user(segment: Segment, field: str) -> None:
    host, other = Host.here(), {"boot": bytes(16), "namespace": 1, "user": 99_999}
    assert host.shared_with(claim_of(segment))
    assert not host.shared_with(claim_of(segment, **{field: other[field]}))


@pytest.mark.parametrize(
    "changed",
    [
        {"process": 1 << 22, "segment": 0},
        {"process": 0},
        {"process": (1 << 64) - 1},
        {"segment": 1 << 30},
        {"nonce": bytes(NONCE)},
        {"layout": Layout(ring=MIN_RING, slot=1000, slots=1)},
        {"layout": Layout(ring=2 * MIN_RING, slot=1000, slots=2)},
        {"layout": Layout(ring=MAX_RING, slot=16 << 20, slots=64)},
    ],
    ids=str,
)
def test_a_claim_that_is_not_true(segment: Segment, changed: dict[str, object]) -> None:
    with pytest.raises(UnavailableError):
        attach(claim_of(segment, **changed), segment.device)


def memfd(size: int, seals: int, content: bytes = NONCE_OF_OURS) -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(descriptor, 0, size)
    os.pwrite(descriptor, content, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, FUTURE_WRITE])
def test_memory_that_could_be_taken_away_or_written_is_refused(
    segment: Segment, missing: int
) -> None:
    loose = memfd(SMALL.size, SEALS & ~missing)
    with pytest.raises(UnavailableError, match="not sealed"):
        attach(claim_of(segment, segment=loose), segment.device)
    os.close(loose)


def test_memory_that_does_not_exist_yet_is_refused(segment: Segment) -> None:
    """Reading a hole would take memory of ours, or end in SIGBUS where there is none."""
    sparse = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(sparse, SMALL.size)
    os.pwrite(sparse, NONCE_OF_OURS, 0)
    fcntl.fcntl(sparse, fcntl.F_ADD_SEALS, SEALS)
    with pytest.raises(UnavailableError, match="bytes"):
        attach(claim_of(segment, segment=sparse), segment.device)
    os.close(sparse)


def test_other_kinds_of_files_are_refused_unopened(segment: Segment, tmp_path: Path) -> None:
    ordinary = tmp_path / "file"
    ordinary.write_bytes(NONCE_OF_OURS + bytes(SMALL.size - NONCE))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    descriptors = [
        os.open(ordinary, os.O_RDONLY),
        os.open(tmp_path, os.O_RDONLY),
        os.open("/dev/zero", os.O_RDONLY),
        os.open(fifo, os.O_RDWR),
        os.eventfd(0),
    ]
    for descriptor in descriptors:
        with pytest.raises(UnavailableError):
            attach(claim_of(segment, segment=descriptor), segment.device)
        os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process of another user")
def test_a_process_of_another_user_sees_nothing(segment: Segment) -> None:
    other = _STRANGER.replace("\nlibc", "\nos.setgid(65534); os.setuid(65534)\nlibc", 1)
    said = python(other, f"/proc/{os.getpid()}/fd/{segment.descriptor}", SMALL.size)
    assert said == "open refused"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can see what other users have open")
def test_memory_of_another_user_is_refused(segment: Segment) -> None:
    foreign = memfd(SMALL.size, SEALS)
    os.fchown(foreign, 65534, -1)
    with pytest.raises(UnavailableError, match="belongs to user 65534"):
        attach(claim_of(segment, segment=foreign), segment.device)
    os.close(foreign)


# --- a system that has none to give ---------------------------------------------------------------

_SCARCE = """
import ctypes, os, resource, signal, struct, sys
from transport.path.shared_memory.layout import Layout
from transport.path.shared_memory.segment import UnavailableError, create

def file_size(): resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def descriptors(): resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
def address_space():
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 65536, used + 65536))
def forbidden():
    # Load the call's number; memfd_create gives EPERM, everything else is allowed.
    number = {"x86_64": 319, "aarch64": 279}[os.uname().machine]
    program = b"".join(struct.pack("HBBI", *each) for each in (
        (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0

create(Layout(slots=0), bytes(32)).close()
globals()[sys.argv[1]]()
before = len(os.listdir("/proc/self/fd")) if sys.argv[1] != "descriptors" else 0
try:
    create(Layout(slots=8), bytes(32))
except UnavailableError as error:
    print("unavailable:", error)
if before:
    print("descriptors left:", len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.parametrize("lack", ["file_size", "descriptors", "address_space", "forbidden"])
def test_what_cannot_be_had_is_refused_at_once_and_leaves_nothing(lack: str) -> None:
    said = python(_SCARCE, lack)
    assert said.startswith("unavailable:"), said
    assert lack == "descriptors" or said.endswith("descriptors left: 0")


def test_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking all of the machine's is no test to run: the one call that would notice is told so."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UnavailableError, match="No space left"):
        create(SMALL, NONCE_OF_OURS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_segment_beyond_the_limit() -> None:
    with pytest.raises(UnavailableError, match="exceeds"):
        create(Layout(slot=16 << 20, slots=64), NONCE_OF_OURS)


def test_nothing_is_left_open(segment: Segment) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = create(SMALL, NONCE_OF_OURS)
    peer = attach(claim_of(made), made.device)
    made.hide()
    made.hide()
    with pytest.raises(UnavailableError):
        attach(claim_of(made), segment.device)
    peer.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
