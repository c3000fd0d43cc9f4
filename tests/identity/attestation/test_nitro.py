"""The NSM's requests and answers, byte for byte as aws-nitro-enclaves-nsm-api writes them."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest

from support.attestation import accept, document_of, entries, time_of
from transport.errors import UsageError
from transport.identity.attestation import AttesterError, NitroAttester, NsmDevice, Verifier
from transport.identity.attestation.nitro import NSM_IOCTL, decode_response, encode_request

Answer = Callable[[bytes], bytes]
REQUEST_TAG = "a16b4174746573746174696f6e"  # {"Attestation": …}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # serde's encoding of Request::Attestation, fields in the order they are declared in.
        (
            {"user_data": b"\x09\x09", "nonce": None, "public_key": b"\x07"},
            "a369757365725f64617461420909656e6f6e6365f66a7075626c69635f6b65794107",
        ),
        (
            {"user_data": None, "nonce": None, "public_key": None},
            "a369757365725f64617461f6656e6f6e6365f66a7075626c69635f6b6579f6",
        ),
        (
            {"user_data": b"", "nonce": bytes(32), "public_key": None},
            "a369757365725f6461746140656e6f6e63655820" + "00" * 32 + "6a7075626c69635f6b6579f6",
        ),
    ],
)
def test_requests_are_those_of_the_nsm_api(fields: dict[str, bytes | None], expected: str) -> None:
    assert encode_request(**fields).hex() == REQUEST_TAG + expected


def test_the_ioctl_is_the_drivers() -> None:
    assert NSM_IOCTL == 0xC0200A00


def test_an_answer_gives_its_document() -> None:
    head = bytes.fromhex("a16b4174746573746174696f6ea168646f63756d656e74")
    assert decode_response(head + b"\x43abc") == b"abc"
    document = document_of(entries("genuine-aws")[0])
    assert decode_response(head + cbor2.dumps(document)) == document


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (bytes.fromhex("a1654572726f726d496e707574546f6f4c61726765"), "refused: 'InputTooLarge'"),
        (b"", "not CBOR"),
        (b"\xa0", "holds no attestation document"),
        (cbor2.dumps("LockPCR"), "holds no attestation document"),
        (cbor2.dumps({"Attestation": {}}), "holds no attestation document"),
        (cbor2.dumps({"Attestation": {"document": b""}}), "holds no attestation document"),
        (cbor2.dumps({"Attestation": {"document": "text"}}), "holds no attestation document"),
        (cbor2.dumps({"GetRandom": {"random": b"x"}}), "holds no attestation document"),
        (cbor2.dumps({"Attestation": {"document": b"x"}}) + b"\0", "after the CBOR item"),
    ],
)
def test_any_other_answer_is_an_error_of_this_side(answer: bytes, complaint: str) -> None:
    with pytest.raises(AttesterError, match=complaint):
        decode_response(answer)


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
def test_what_a_document_cannot_hold_is_refused_before_it_is_sent(field: str) -> None:
    fields: dict[str, bytes | None] = {"public_key": None, "user_data": None, "nonce": None}
    encode_request(**{**fields, field: bytes(1024)})
    with pytest.raises(UsageError, match=f"`{field}` has 1025 bytes, at most 1024"):
        encode_request(**{**fields, field: bytes(1025)})
    with pytest.raises(UsageError, match="must be bytes or None, got str"):
        encode_request(**{**fields, field: "text"})  # type: ignore[dict-item]


class Driver:
    """What the kernel's side of the ioctl does: reads one buffer, fills the other."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[bytes] = []

    def __call__(self, descriptor: int, request: int, message: bytearray) -> int:
        assert descriptor >= 0
        assert request == 0xC0200A00
        sent_at, sent, room_at, room = struct.unpack("=QQQQ", message)
        assert room == 0x3000
        self.requests.append(ctypes.string_at(sent_at, sent))
        answer = self._answer(self.requests[-1])
        ctypes.memmove(room_at, answer, len(answer))
        struct.pack_into("=Q", message, 24, len(answer))
        return 0


def device(folder: Path, answer: Answer) -> tuple[NsmDevice, Driver]:
    (folder / "nsm").touch()
    driver = Driver(answer)
    return NsmDevice(str(folder / "nsm"), ioctl=driver), driver


def test_an_attester_asks_the_device_and_returns_its_document(tmp_path: Path) -> None:
    (entry,) = [each for each in entries("genuine-aws") if each["payload_map"] == "indefinite"]
    genuine = document_of(entry)
    nsm, driver = device(tmp_path, lambda _: cbor2.dumps({"Attestation": {"document": genuine}}))
    document = NitroAttester(nsm).evidence(b"key", b"data", None)
    assert driver.requests == [encode_request(public_key=b"key", user_data=b"data", nonce=None)]
    own_time = time_of(entry)
    assert accept(document, Verifier(None, clock=lambda: own_time, allow_debug=True)).hardware


def test_a_device_that_fails_is_an_error_of_this_side(tmp_path: Path) -> None:
    def fails(_: bytes) -> bytes:
        raise OSError(errno.EMSGSIZE, "Message too long")

    nsm, _ = device(tmp_path, fails)
    with pytest.raises(AttesterError, match="Message too long"):
        NitroAttester(nsm).evidence(None, None, None)
    nsm, _ = device(tmp_path, lambda _: b"")
    with pytest.raises(AttesterError, match="an answer of 0 bytes"):
        NitroAttester(nsm).evidence(None, None, None)
    with pytest.raises(AttesterError, match="a request of 4097 bytes"):
        nsm.exchange(bytes(4097))


def test_without_the_device_the_error_says_what_this_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this is no Nitro enclave"):
        NsmDevice(str(tmp_path / "nsm"))


def test_a_file_that_is_no_device_is_an_error_and_no_document(tmp_path: Path) -> None:
    (tmp_path / "nsm").touch()
    with pytest.raises(AttesterError, match="Inappropriate ioctl"):
        NitroAttester(NsmDevice(str(tmp_path / "nsm"))).evidence(None, None, None)
