"""Orders over a socket pair."""

from __future__ import annotations

import socket

import pytest

from bench.errors import BenchError
from bench.peers.control import Control


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield Control(ours), theirs
    ours.close()
    theirs.close()


def test_messages_keep_their_order_and_their_borders(ends):
    control, raw = ends
    raw.sendall(b'{"value": 1}\n{"value": [2, "\\n"]}\n{"val')
    assert control.receive(5.0) == {"value": 1}
    assert control.receive(5.0) == {"value": [2, "\n"]}
    raw.sendall(b'ue": null}\n')
    assert control.receive(5.0) == {"value": None}


def test_a_long_message_crosses_whole(ends):
    control, raw = ends
    other = Control(raw)
    message = {"value": list(range(5000))}
    control.send(message)
    assert other.receive(5.0) == message


def test_silence_ends(ends):
    control, _ = ends
    with pytest.raises(BenchError, match=r"within 0\.01 s"):
        control.receive(0.01)


def test_the_end_of_the_other_process_is_an_error(ends):
    control, raw = ends
    raw.close()
    with pytest.raises(BenchError, match="gone"):
        control.receive(5.0)
    with pytest.raises(BenchError, match="gone"):
        control.send({"do": "stop"})
