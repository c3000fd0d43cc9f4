"""Whom a node answers, how many at once, and which of two links stays."""

from __future__ import annotations

import pytest

from support.nodes import OTHER_SECRET, SECRET
from transport import Config, Identity, LimitError, PeerLostError, TransportError, Trust
from transport.link import Link, State
from transport.link.handshake import Handshake, Terms
from transport.link.sender import packet_limit
from transport.node.directory import Directory


class NoPath:
    """A path that leads nowhere; `connected` says what the test wants it to say."""

    def __init__(self, *, connected: bool = False) -> None:
        self.address = "test:nowhere"
        self.connected = connected
        self.endpoint = None

    def keep(self) -> None:
        pass

    def send(self, packet: object, *, stable: bool) -> bool:
        return True

    def close(self) -> None:
        pass


def terms(name: str, trust: Trust | None = None) -> Terms:
    config = Config()
    return Terms(
        name=name,
        identity=Identity.generate(),
        trust=trust or Trust(secret=SECRET),
        packet_limit=packet_limit(config),
        credit=config.unexpected_bytes,
    )


def hello(caller: str, to: str = "node", *, trust: Trust | None = None) -> memoryview:
    """A caller's first packet."""
    return memoryview(Handshake(terms(caller, trust), peer=to, index=7).first_packet())


def directory(config: Config | None = None, name: str = "node") -> Directory:
    made = Directory(terms(name), config or Config())

    def retire(link: Link, error: TransportError) -> None:
        link.abort(error)
        made.ended(link, error)

    made.on_retire(retire)
    return made


def answer(to: Directory, packet: memoryview) -> Link | None:
    return to.answer(NoPath(), packet, 0.0)  # type: ignore[arg-type]


def test_a_caller_is_answered_once() -> None:
    node = directory()
    packet = hello("caller")
    link = answer(node, packet)
    assert link is not None
    assert link.peer == "caller"
    assert node.by_index(link.index) is link
    assert answer(node, packet) is None
    assert node.drops == {"replayed_hello": 1}
    assert node.peers() == ()


@pytest.mark.parametrize(
    ("packet", "cause"),
    [
        (hello("caller", trust=Trust(secret=OTHER_SECRET)), "bad_hello"),
        (hello("caller", to="other"), "bad_hello"),
        (hello("node"), "unknown_peer"),
        (memoryview(bytes(hello("caller"))[:-1]), "bad_hello"),
        (memoryview(bytes(hello("caller"))[:20]), "malformed"),
        (memoryview(b"\x11\0\xff\xff" + bytes(2000)), "malformed"),
    ],
    ids=["secret", "addressee", "own name", "cut", "cut short", "absurd length"],
)
def test_others_are_dropped_and_counted(packet: memoryview, cause: str) -> None:
    node = directory()
    assert answer(node, packet) is None
    assert node.drops == {cause: 1}
    assert list(node) == []


@pytest.mark.parametrize("position", [0, 1, 2, 4, 8, 30, 200, -1])
def test_a_flipped_bit_anywhere_is_noticed(position: int) -> None:
    node = directory()
    packet = bytearray(hello("caller"))
    packet[position] ^= 4
    assert answer(node, memoryview(packet)) is None
    assert sum(node.drops.values()) == 1


def test_half_open_handshakes_give_way_to_newer_callers() -> None:
    node = directory(Config(half_open_links=4))
    links = [answer(node, hello(f"caller{number}")) for number in range(20)]
    left = [link for link in node if link.state is not State.CLOSED]
    assert left == links[-4:]
    assert list(node) == left
    assert node.drops["half_open"] == 16


def test_a_caller_that_begins_anew_gives_way_to_itself() -> None:
    """It has given up what it began before, and nobody else is to pay for that."""
    node = directory(Config(half_open_links=4))
    others = [answer(node, hello(name)) for name in ("one", "other")]
    attempts = [answer(node, hello("caller")) for _ in range(10)]
    assert list(node) == [*others, *attempts[-2:]]
    assert node.drops == {"half_open": 8}
    # A hello proves no name: what an insider sends under another's ends no attempt of it
    # before there are too many.
    assert all(link.state is State.HANDSHAKING for link in node)


def test_many_under_one_name_do_not_keep_the_next_ones_out() -> None:
    node = directory(Config(half_open_links=4))
    for _ in range(6):
        answer(node, hello("insider"))
    friends = [answer(node, hello(f"friend{number}")) for number in range(3)]
    assert list(node)[1:] == friends


def proved(to: Directory, caller: str) -> Link:
    """A link whose caller has proved who it is, and sent no packet yet."""
    calling = Handshake(terms(caller), peer="node", index=7)
    packet = memoryview(calling.first_packet())
    link = answer(to, packet)
    assert link is not None
    link.receive_packet(NoPath(), packet, 0.0)
    while (transmit := link.poll_transmit(0.0)) is not None:
        for answered in calling.receive(memoryview(transmit.data)):
            link.receive_packet(NoPath(), memoryview(answered), 0.0)
    assert link.state is State.CONFIRMING
    return link


@pytest.mark.parametrize("peer", ["a", "z"], ids=["sorts first", "sorts last"])
def test_a_call_that_nobody_answered_gives_way_to_one_that_went_further(peer: str) -> None:
    """To the caller there is a link; another one would end it with all it was given."""
    node = directory()
    call = node.call(peer, 0.0)
    call.add_path(NoPath(), "test:nowhere", 0.0)
    call.begin(0.0)
    assert not node.is_confirming(peer)
    link = proved(node, peer)
    node.committed(link)
    assert node.is_confirming(peer)
    assert node.call_to(peer) is None
    assert call.state is State.CLOSED
    assert list(node) == [link]


def test_old_first_messages_are_remembered_up_to_the_limit() -> None:
    node = directory(Config(handshakes_remembered=3, half_open_links=100))
    packets = [hello(f"caller{number}") for number in range(5)]
    assert all(answer(node, packet) for packet in packets)
    assert [answer(node, packet) is None for packet in packets[2:]] == [True] * 3
    assert node.drops["replayed_hello"] == 3


def test_the_limit_of_links_counts_calls_under_way() -> None:
    node = directory(Config(links=2))
    node.call("x", 0.0)
    node.call("y", 0.0)
    with pytest.raises(LimitError, match=r"Config\.links"):
        node.call("z", 0.0)


def test_a_closing_node_answers_nobody() -> None:
    node = directory()
    node.refuse_callers()
    assert answer(node, hello("caller")) is None
    assert list(node) == []


@pytest.mark.parametrize(
    ("own", "connected", "answered"),
    [("a", True, False), ("a", False, True), ("c", True, True), ("c", False, True)],
)
def test_of_two_calls_that_cross_the_first_name_keeps_its_own(
    own: str, connected: bool, answered: bool
) -> None:
    node = directory(name=own)
    call = node.call("b", 0.0)
    call.add_path(NoPath(connected=connected), "test:nowhere", 0.0)
    assert (answer(node, hello("b", to=own)) is not None) is answered


def test_the_newer_link_of_a_peer_replaces_the_older() -> None:
    node = directory()
    first, second = answer(node, hello("caller")), answer(node, hello("caller"))
    assert first is not None
    assert second is not None
    node.established(first)
    assert node.link_to("caller") is first
    node.established(second)
    assert node.link_to("caller") is second
    assert first.state is State.CLOSED
    assert node.peers() == ("caller",)
    assert not node.lost


@pytest.mark.parametrize("first_open", ["own", "theirs"])
def test_whichever_crossing_call_gets_through_first_ends_the_other(first_open: str) -> None:
    node = directory(name="a")
    own = node.call("b", 0.0)
    theirs = answer(node, hello("b", to="a"))
    assert theirs is not None
    if first_open == "own":
        node.established(own)
        assert theirs.state is State.CLOSED
        assert node.link_to("b") is own
    else:
        node.committed(theirs)
        assert own.state is State.CLOSED
        assert node.call_to("b") is None
        node.established(theirs)
        assert node.link_to("b") is theirs


def test_the_second_name_leaves_the_choice_to_the_first() -> None:
    node = directory(name="c")
    own = node.call("b", 0.0)
    theirs = answer(node, hello("b", to="c"))
    assert theirs is not None
    own.state = State.ATTESTING  # it was answered, so the other one may count on it
    node.committed(theirs)
    assert node.call_to("b") is own
    node.established(theirs)
    assert node.link_to("b") is theirs
    assert own.state is State.CLOSED


def test_a_lost_peer_is_remembered_until_it_is_back() -> None:
    node = directory()
    link = answer(node, hello("caller"))
    assert link is not None
    node.established(link)
    error = PeerLostError("gone")
    node.ended(link, error)
    assert node.lost == {"caller": error}
    assert node.link_to("caller") is None
    again = answer(node, hello("caller"))
    assert again is not None
    node.established(again)
    assert not node.lost


def test_notes_about_lost_and_refused_peers_are_bounded() -> None:
    node = directory(Config(links=3))
    for number in range(10):
        link = answer(node, hello(f"caller{number}"))
        assert link is not None
        node.established(link)
        node.ended(link, PeerLostError("gone"))
        node.refused(f"caller{number}", PeerLostError("who?"))
    assert list(node.lost) == ["caller7", "caller8", "caller9"]
    assert node.refusal_of("caller0") is None
    assert node.refusal_of("caller9") is not None
    assert node.refusal_of("caller9") is None
