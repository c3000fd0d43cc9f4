"""Looks for plaintext in everything that a wiretap recorded, at every alignment.

Why the search is complete: a run of 15 bytes or more, wherever it lies in a
stream, covers at least one word of 8 bytes at an offset divisible by 8. So all
such words of the streams are put into a table, and all 8-byte windows of a
tensor, at all its offsets, are looked up there. A bitmap answers most lookups
(for ciphertext nearly all, in the negative), a sorted array the others, and a
word found is then compared byte by byte with its surroundings. Nothing is
sampled, and no answer is a probability.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

RUN_SIZE: Final = 16  # bytes of a tensor in a row that count as plaintext
SHORTEST_DATA: Final = 8  # bytes; shorter ones occur in ciphertext by chance
SHORTEST_INDEXED: Final = 15  # any run from this length covers an aligned word

_WORD: Final = 8
_SLAB: Final = 4 * 1024 * 1024  # bytes of a tensor looked up by one task
_STEP: Final = 256 * 1024  # bytes per vectorised step; its arrays stay in cache
_VERIFIED_AT_ONCE: Final = 256  # word values compared with their surroundings per pass
_BIT: Final = np.array([1 << bit for bit in range(8)], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Plaintext on the wire: these bytes, at this offset of that stream."""

    stream: int  # place in the sequence of streams searched
    offset: int  # bytes from the start of the stream
    found: bytes


class WireIndex:
    """All aligned words of some streams, ready to be asked for plaintext.

    Needs about twice the memory of the streams again, up to 256 MiB of it for
    the bitmap. Streams are byte arrays that must not change any more.
    """

    def __init__(self, streams: Sequence[Bytes]) -> None:
        self._streams = list(streams)
        self._words = [_aligned_words(stream) for stream in self._streams]
        self._table = _WordTable(np.concatenate([*self._words, np.empty(0, np.uint64)]))

    def find_tensor(self, data: Bytes) -> Match | None:
        """The first occurrence found of a 16-byte run of `data`, or None.

        Data of 8 to 15 bytes has to occur in full. Shorter data is not searched:
        it would be found by chance.
        """
        if len(data) >= RUN_SIZE:
            return self.find_run(data)
        return self.find_text(data.tobytes()) if len(data) >= SHORTEST_DATA else None

    def find_run(self, data: Bytes, run: int = RUN_SIZE) -> Match | None:
        """The first occurrence found of any `run` bytes in a row of `data`, or None.

        `data` shorter than `run` has no such run.

        Raises:
            UsageError: `run` is shorter than the 15 bytes that the index needs.
        """
        if run < SHORTEST_INDEXED:
            raise UsageError(f"run must be at least {SHORTEST_INDEXED} bytes, got {run}")
        if len(data) < run:
            return None
        slabs = [data[at : at + _SLAB + _WORD - 1] for at in range(0, len(data) - _WORD + 1, _SLAB)]
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for number, shared in enumerate(pool.map(self._table.shared_windows, slabs)):
                if len(shared) == 0:
                    continue
                match = self._verify(data, number * _SLAB, len(slabs[number]), shared, run)
                if match is not None:
                    pool.shutdown(cancel_futures=True)
                    return match
        return None

    def find_text(self, text: bytes) -> Match | None:
        """The first occurrence found of all of `text`, of any length but 0, or None."""
        if len(text) >= SHORTEST_INDEXED:
            return self.find_run(np.frombuffer(text, np.uint8), run=len(text))
        for number, stream in enumerate(self._streams):
            for at in range(0, len(stream), _SLAB):
                place = stream[at : at + _SLAB + len(text) - 1].tobytes().find(text)
                if place >= 0:
                    return Match(stream=number, offset=at + place, found=text)
        return None

    def _verify(self, data: Bytes, start: int, size: int, shared: Words, run: int) -> Match | None:
        """Compare the surroundings of each shared word, in `data` and on the wire."""
        for at in range(0, len(shared), _VERIFIED_AT_ONCE):
            few = _WordTable(shared[at : at + _VERIFIED_AT_ONCE].copy())
            wire_runs: dict[bytes, tuple[int, int]] = {}
            for number, (stream, words) in enumerate(zip(self._streams, self._words, strict=True)):
                for word in few.places(words):
                    for offset, found in _runs_around(stream, int(word) * _WORD, run):
                        wire_runs.setdefault(found, (number, offset))
            for shift in range(_WORD):
                windows = _aligned_words(data[start + shift : start + size])
                for word in few.places(windows):
                    place = start + shift + int(word) * _WORD
                    for _, found in _runs_around(data, place, run):
                        if found in wire_runs:
                            number, offset = wire_runs[found]
                            return Match(stream=number, offset=offset, found=found)
        return None


class _WordTable:
    """A set of 8-byte words with vectorised lookup; takes over `words` and sorts them."""

    def __init__(self, words: Words) -> None:
        words.sort()
        self._sorted = words
        bits = min(31, max(16, len(words).bit_length() + 5))  # at most 256 MiB of bitmap
        self._shift = np.uint64(64 - bits)
        self._bitmap = np.zeros(1 << bits >> 3, np.uint8)
        self._fill_bitmap()

    def _fill_bitmap(self) -> None:
        for at in range(0, len(self._sorted), _STEP):
            slots = self._sorted[at : at + _STEP] >> self._shift
            places = (slots >> np.uint64(3)).view(np.int64)
            starts = np.flatnonzero(np.diff(places, prepend=np.int64(-1)))
            marks = np.bitwise_or.reduceat(_BIT[(slots & np.uint64(7)).view(np.int64)], starts)
            self._bitmap[places[starts]] |= marks

    def shared_windows(self, data: Bytes) -> Words:
        """The 8-byte windows of `data`, at all its offsets, that are in the set."""
        likely = [
            words[self._likely(words)]
            for at in range(0, len(data), _STEP)
            for shift in range(_WORD)
            if len(words := _aligned_words(data[at + shift : at + shift + _STEP]))
        ]
        candidates = np.unique(np.concatenate([*likely, np.empty(0, np.uint64)]))
        return candidates[self._exactly(candidates)]

    def places(self, words: Words) -> Iterator[np.int64]:
        """Where in `words` a member of the set lies."""
        for at in range(0, len(words), _STEP):
            piece = words[at : at + _STEP]
            likely = np.flatnonzero(self._likely(piece))
            yield from at + likely[self._exactly(piece[likely])]

    def _likely(self, words: Words) -> npt.NDArray[np.bool_]:
        slots = words >> self._shift
        marks = self._bitmap.take((slots >> np.uint64(3)).view(np.int64))
        wanted = _BIT.take((slots & np.uint64(7)).view(np.int64))
        likely: npt.NDArray[np.bool_] = (marks & wanted) != 0
        return likely

    def _exactly(self, words: Words) -> npt.NDArray[np.bool_]:
        if len(self._sorted) == 0:
            return np.zeros(len(words), np.bool_)
        places = np.searchsorted(self._sorted, words)
        places[places == len(self._sorted)] = 0
        exactly: npt.NDArray[np.bool_] = self._sorted[places] == words
        return exactly


def entropy_bits(streams: Sequence[Bytes]) -> float:
    """Shannon entropy of the bytes of all streams together, in bits per byte."""
    counts = np.zeros(256, np.int64)
    for stream in streams:
        for at in range(0, len(stream), _SLAB):
            counts += np.bincount(stream[at : at + _SLAB], minlength=256)
    total = counts.sum()
    if total == 0:
        return 0.0
    shares = counts[counts > 0] / total
    return float(-(shares * np.log2(shares)).sum())


def _aligned_words(data: Bytes) -> Words:
    """The whole 8-byte words of `data` from its first byte on, copied if unaligned."""
    whole = data[: len(data) // _WORD * _WORD]
    if whole.ctypes.data % _WORD:
        whole = whole.copy()
    return whole.view(np.uint64)


def _runs_around(data: Bytes, place: int, run: int) -> Iterator[tuple[int, bytes]]:
    """Each run of `run` bytes of `data` that covers the word at `place`, with its offset."""
    for start in range(max(0, place + _WORD - run), min(place, len(data) - run) + 1):
        yield start, data[start : start + run].tobytes()
