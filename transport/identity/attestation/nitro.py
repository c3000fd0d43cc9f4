"""Attestation by Nitro hardware: the Nitro Security Module behind `/dev/nsm`.

Requests and answers are CBOR in the externally tagged form of aws-nitro-enclaves-nsm-api
(`src/api/mod.rs`); the one ioctl takes two `struct iovec`, of the request and of the room
for the answer (`src/driver/mod.rs`; Linux `include/uapi/linux/nsm.h`). The device exists
inside a Nitro enclave only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any, Final

from ...errors import UsageError
from . import cbor
from .attester import AttesterError, check_field

__all__ = ["DEVICE", "NitroAttester", "NsmDevice", "decode_response", "encode_request"]

DEVICE: Final = "/dev/nsm"
REQUEST_LIMIT: Final = 0x1000  # bytes
RESPONSE_LIMIT: Final = 0x3000

_MESSAGE: Final = struct.Struct("=QQQQ")  # address and length of request, then of response
_IOWR: Final = 3 << 30
NSM_IOCTL: Final = _IOWR | _MESSAGE.size << 16 | 0x0A << 8 | 0  # _IOWR(0x0A, 0, two iovecs)

Ioctl = Callable[[int, int, bytearray], int]


def _ioctl(descriptor: int, request: int, message: bytearray) -> int:
    return int(fcntl.ioctl(descriptor, request, message))


class NsmDevice:
    """The device file. It is opened for each request, so a fork shares nothing.

    Raises:
        UsageError: there is no such device.
    """

    def __init__(self, path: str = DEVICE, *, ioctl: Ioctl = _ioctl) -> None:
        if not os.path.exists(path):
            raise UsageError(
                f"there is no {path}: this is no Nitro enclave. Outside of one an embedded "
                f"attester can be used, which proves the flow and not the hardware"
            )
        self._path = path
        self._ioctl = ioctl

    def exchange(self, request: bytes) -> bytes:
        """Send one encoded request; return the encoded answer.

        Raises:
            AttesterError: the device cannot be opened, or refused the call.
        """
        if len(request) > REQUEST_LIMIT:
            raise AttesterError(f"a request of {len(request)} bytes, at most {REQUEST_LIMIT}")
        sent = ctypes.create_string_buffer(request, len(request))
        room = ctypes.create_string_buffer(RESPONSE_LIMIT)
        message = bytearray(
            _MESSAGE.pack(
                ctypes.addressof(sent), len(request), ctypes.addressof(room), RESPONSE_LIMIT
            )
        )
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ioctl(descriptor, NSM_IOCTL, message)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AttesterError(f"{self._path}: {error.strerror}") from error
        length = _MESSAGE.unpack(message)[3]  # the driver writes back how much it filled
        if not 0 < length <= RESPONSE_LIMIT:
            raise AttesterError(f"{self._path}: an answer of {length} bytes")
        return room.raw[:length]


class NitroAttester:
    """An `Attester` by the hardware that this enclave runs on.

    Raises:
        UsageError: there is no NSM device here.
    """

    def __init__(self, device: NsmDevice | None = None) -> None:
        self._device = device if device is not None else NsmDevice()

    def evidence(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> bytes:
        """Return a document signed by the Nitro hypervisor; see `Attester.evidence`."""
        request = encode_request(public_key=public_key, user_data=user_data, nonce=nonce)
        return decode_response(self._device.exchange(request))


def encode_request(
    *, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
) -> bytes:
    """Return an Attestation request.

    Raises:
        UsageError: an argument is too long.
    """
    fields = {
        "user_data": check_field(user_data, "user_data"),
        "nonce": check_field(nonce, "nonce"),
        "public_key": check_field(public_key, "public_key"),
    }
    return cbor.encode({"Attestation": fields})


def decode_response(encoded: bytes) -> bytes:
    """Return the document in the answer to an Attestation request.

    Raises:
        AttesterError: the answer is an error, or not one to such a request.
    """
    try:
        answer: Any = cbor.decode(encoded, indefinite=True)
    except cbor.MalformedCborError as error:
        raise AttesterError(f"the NSM's answer is {error}") from None
    if type(answer) is dict and len(answer) == 1:
        if "Error" in answer:
            raise AttesterError(f"the NSM refused: {answer['Error']!r:.80}")
        content = answer.get("Attestation")
        document = content.get("document") if type(content) is dict else None
        if type(document) is bytes and document:
            return document
    raise AttesterError("the NSM's answer holds no attestation document")
