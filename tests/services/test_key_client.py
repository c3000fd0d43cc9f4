"""The client of a key service: what a wrong or silent service can do to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest

from support.kms import CONTEXT
from support.nodes import PATIENCE, linked
from transport.errors import (
    AuthenticationError,
    PeerLostError,
    PeerRefusedError,
    TransportTimeoutError,
    UsageError,
)
from transport.identity.kms import messages
from transport.identity.kms.messages import ChallengeRequest
from transport.services import RemoteKeyService
from transport.services.key_server import KEY_CONVERSATION


@contextmanager
def answered_by(answer: Callable[[bytes], object]):
    """A client whose service answers each request with what `answer` makes of it."""
    with linked() as (caller, service):
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                work = service.irecv(source="a", tag=None, context=KEY_CONVERSATION)
                while not work.done():
                    if stop.wait(0.005):
                        work.cancel()
                        return
                content = answer(work.wait(0).tobytes())
                service.isend(content, to="a", tag=work.tag, context=KEY_CONVERSATION)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield RemoteKeyService(caller, "b", timeout=PATIENCE)
        finally:
            stop.set()
            thread.join()


def test_requests_are_what_the_service_reads():
    asked = []

    def answer(request: bytes) -> bytes:
        asked.append(messages.decode_request(request))
        return messages.encode_challenge(b"c" * 32)

    with answered_by(answer) as service:
        assert service.challenge() == b"c" * 32
        with pytest.raises(AuthenticationError):
            service.decrypt(b"ciphertext", CONTEXT, b"evidence")
    assert asked[0] == ChallengeRequest()
    assert (asked[1].subject, asked[1].context) == (b"ciphertext", CONTEXT)


@pytest.mark.parametrize(
    "answer",
    [
        b"\0",
        np.zeros(3, np.float32),
        np.zeros((3, 3), np.uint8),
        msgpack.packb({"v": 1, "ciphertext": b"c", "envelope": b"e", "plaintext": bytes(32)}),
        msgpack.packb({"v": 1, "plaintext": bytes(32)}),
        messages.encode_challenge(b"c"),
    ],
)
def test_another_answer_is_one_error(answer):
    with (
        answered_by(lambda request: answer) as service,
        pytest.raises(AuthenticationError, match="cannot be opened"),
    ):
        service.generate_data_key("k", CONTEXT, b"evidence")


def test_a_refusal():
    refusal = messages.encode_refusal()
    with answered_by(lambda request: refusal) as service, pytest.raises(PeerRefusedError):
        service.challenge()


def test_a_silent_service():
    with linked() as (caller, _), pytest.raises(TransportTimeoutError):
        RemoteKeyService(caller, "b", timeout=0.1).challenge()


def test_a_late_answer_is_taken_away_and_disturbs_nobody():
    with linked() as (caller, service):
        client = RemoteKeyService(caller, "b", timeout=0.1)
        with pytest.raises(TransportTimeoutError):
            client.challenge()
        late = service.irecv(source="a", tag=None, context=KEY_CONVERSATION)
        late.wait(PATIENCE)
        service.isend(
            messages.encode_challenge(b"late"), to="a", tag=late.tag, context=KEY_CONVERSATION
        )
        service.flush(timeout=PATIENCE)
        assert caller.stats().unclaimed_messages == 0


def test_a_service_that_is_gone_or_was_never_there():
    with linked() as (caller, service):
        service.close()
        with pytest.raises((PeerLostError, UsageError)):
            RemoteKeyService(caller, "b", timeout=PATIENCE).challenge()
        with pytest.raises(UsageError, match="no link"):
            RemoteKeyService(caller, "stranger", timeout=0.2).challenge()
