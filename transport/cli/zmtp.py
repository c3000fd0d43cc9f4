"""An incremental reader of ZMTP 3.x framing, for the wiretap (ZMTP 3.1, RFC 37).

A connection starts with a greeting of 64 bytes each way. After it come frames:
one byte of flags (bit 0 more, bit 1 long, bit 2 command), a length of one or
eight bytes, and the body. The reader never holds a body; it only says where in
the stream each frame lies. Bytes that do not follow the framing turn the reader
opaque: from there on it counts and finds no more frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GREETING_SIZE: Final = 64
MORE, LONG, COMMAND = 0x01, 0x02, 0x04

_RESERVED: Final = 0xFF & ~(MORE | LONG | COMMAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where one frame lies in its stream: offsets in bytes from the stream's start."""

    start: int  # of the flags byte
    body: int  # of the first byte of the body
    end: int  # one past the last byte of the body
    command: bool  # spoken by ZeroMQ itself, not by its user
    whole: bool  # a message of this frame alone

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.end - self.body


class FrameReader:
    """Finds the frames of one direction of one connection, whatever the chunks.

    `position` counts the bytes fed, `message_start` is where the unfinished
    message begins, and `opaque` tells that the bytes are not ZMTP 3.x.
    """

    def __init__(self) -> None:
        self.position = 0
        self.message_start = 0
        self.opaque = False
        self._head = bytearray()  # the greeting, or flags and length of a frame
        self._head_size = GREETING_SIZE
        self._greeted = False
        self._start = 0
        self._end: int | None = None  # of the frame whose head is complete
        self._continues = False  # the last frame said that more follow

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that they complete."""
        frames: list[Frame] = []
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view) and not self.opaque:
            if self._end is None:
                taken = min(self._head_size - len(self._head), len(view) - at)
                self._head += view[at : at + taken]
                self._advance_head(taken)
            else:
                taken = min(self._end - self.position, len(view) - at)
                self.position += taken
            at += taken
            if self._end is not None and self.position == self._end:
                frames.append(self._finish_frame())
        self.position += len(view) - at
        return frames

    def _advance_head(self, taken: int) -> None:
        self.position += taken
        if len(self._head) < self._head_size:
            return
        if not self._greeted:
            self._finish_greeting()
        elif self._head[0] & _RESERVED:
            self.opaque = True
        elif len(self._head) == 1:
            self._head_size = 9 if self._head[0] & LONG else 2
        else:
            self._end = self.position + int.from_bytes(self._head[1:], "big")

    def _finish_greeting(self) -> None:
        head = self._head
        if head[0] != 0xFF or head[9] != 0x7F or head[10] < 3:
            self.opaque = True
            return
        self._greeted = True
        self._expect_frame()

    def _expect_frame(self) -> None:
        self._head.clear()
        self._head_size = 1
        self._start = self.position
        self._end = None
        if not self._continues:
            self.message_start = self.position

    def _finish_frame(self) -> Frame:
        flags = self._head[0]
        more = bool(flags & MORE)
        frame = Frame(
            start=self._start,
            body=self._start + len(self._head),
            end=self.position,
            command=bool(flags & COMMAND),
            whole=not more and not self._continues,
        )
        self._continues = more
        self._expect_frame()
        return frame
