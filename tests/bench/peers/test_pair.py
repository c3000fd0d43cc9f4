"""Every peer, run small: two processes, all measurements."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.peers import CATALOGUE, OURS, endpoint_class, missing
from bench.peers.pair import Peer


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_peer_measures_all_it_offers(name):
    if (reason := missing(name)) is not None:
        pytest.skip(reason)
    with Peer(name, deadline=30.0) as peer:
        peer.start()
        assert peer.version
        assert peer.about
        sizes = (1, 3000, 200_000)
        for nbytes in sizes:
            times = peer.one_way(nbytes, 2, batch=11)
            assert len(times) == 2
            assert min(times) > 0
        assert len(peer.round_trip(64, 5)) == 5
        assert peer.message_rate(64, 100) > 0
        # Back to throughput after latency: the processes may use all cores again.
        assert len(peer.one_way(64, 1)) == 1
        assert 0 < peer.waiting(0.01) < 4
        if peer.secures:
            assert len(peer.handshake(2)) == 2
        assert min(peer.peak_memory()) > 2**20


def test_an_unknown_peer_is_named_with_those_that_are_known():
    with pytest.raises(BenchError, match=rf"pigeon.*{OURS[0]}"), Peer("pigeon") as peer:
        peer.start()
    with pytest.raises(BenchError, match="pigeon"):
        endpoint_class("pigeon")


def test_a_peer_that_is_not_running_cannot_be_asked():
    with pytest.raises(BenchError, match="not running"):
        Peer("pyzmq").round_trip(64, 1)


def test_a_closed_peer_starts_afresh():
    peer = Peer("tls", deadline=30.0)
    for _ in range(2):
        peer.start()
        assert len(peer.round_trip(64, 2)) == 2
        peer.close()
    peer.close()
