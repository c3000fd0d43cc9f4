"""The matcher against a model: two plain lists, searched from the front."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.node.matching import Matcher


@dataclass(eq=False)
class Arrived:
    """A message; `eq=False` because the matcher goes by identity."""

    source: str
    context: int
    tag: int
    serial: int = 0


@dataclass(eq=False)
class Wanted:
    """A receive; `None` is a wildcard."""

    source: str | None
    context: int
    tag: int | None
    serial: int = 0


class ListModel:
    """What the matcher promises, in the plainest way to say it."""

    def __init__(self) -> None:
        self.posted: list[Wanted] = []
        self.unexpected: list[Arrived] = []

    def receive_for(self, message: Arrived) -> Wanted | None:
        for receive in self.posted:
            if fits(receive, message):
                self.posted.remove(receive)
                return receive
        return None

    def peek(self, receive: Wanted) -> Arrived | None:
        return next((message for message in self.unexpected if fits(receive, message)), None)


def fits(receive: Wanted, message: Arrived) -> bool:
    return (
        receive.context == message.context
        and receive.source in (None, message.source)
        and receive.tag in (None, message.tag)
    )


# Few values, so that most of them meet.
SOURCES = st.sampled_from(["a", "b", "c"])
TAGS = st.integers(0, 2)
CONTEXTS = st.integers(0, 1)
MESSAGES = st.builds(Arrived, SOURCES, CONTEXTS, TAGS)
RECEIVES = st.builds(Wanted, st.none() | SOURCES, CONTEXTS, st.none() | TAGS)
STEPS = st.lists(
    st.tuples(st.just("arrive"), MESSAGES)
    | st.tuples(st.just("receive"), RECEIVES)
    | st.tuples(st.just("misfit"), RECEIVES)
    | st.tuples(st.just("withdrawn"), MESSAGES)
    | st.tuples(st.just("drop message"), st.integers(0, 20))
    | st.tuples(st.just("drop receive"), st.integers(0, 20))
    | st.tuples(st.just("lose"), SOURCES),
    max_size=60,
)


def arrive(matcher: Matcher[Arrived, Wanted], model: ListModel, message: Arrived) -> None:
    receive = matcher.receive_for(message)
    assert receive is model.receive_for(message)
    if receive is None:
        matcher.keep(message)
        model.unexpected.append(message)


def receive(matcher: Matcher[Arrived, Wanted], model: ListModel, wanted: Wanted) -> None:
    expected = model.peek(wanted)
    assert matcher.peek(wanted.context, wanted.source, wanted.tag) is expected
    assert matcher.message_for(wanted) is expected
    if expected is None:
        matcher.post(wanted)
        model.posted.append(wanted)
    else:
        model.unexpected.remove(expected)


def receive_what_does_not_fit(
    matcher: Matcher[Arrived, Wanted], model: ListModel, wanted: Wanted
) -> None:
    """The message is taken, turns out too large for the buffer, and goes back."""
    message = matcher.message_for(wanted)
    assert message is model.peek(wanted)
    if message is not None:
        matcher.put_back(message)


def arrive_and_be_withdrawn(
    matcher: Matcher[Arrived, Wanted], model: ListModel, message: Arrived
) -> None:
    """The message finds a receive, comes to nothing, and the receive goes back."""
    wanted = matcher.receive_for(message)
    assert wanted is next((posted for posted in model.posted if fits(posted, message)), None)
    if wanted is not None:
        matcher.post_again(wanted)


def lose(matcher: Matcher[Arrived, Wanted], model: ListModel, source: str) -> None:
    lost = list(matcher.posted_for(source))
    assert set(lost) == {wanted for wanted in model.posted if wanted.source == source}
    for wanted in lost:
        assert matcher.remove_posted(wanted)
        model.posted.remove(wanted)


@settings(max_examples=400)
@given(STEPS)
def test_the_matcher_agrees_with_two_lists(steps: list[tuple[str, object]]) -> None:
    matcher: Matcher[Arrived, Wanted] = Matcher()
    model = ListModel()
    for what, value in steps:
        match what, value:
            case "arrive", Arrived() as message:
                arrive(matcher, model, message)
            case "receive", Wanted() as wanted:
                receive(matcher, model, wanted)
            case "misfit", Wanted() as wanted:
                receive_what_does_not_fit(matcher, model, wanted)
            case "withdrawn", Arrived() as message:
                arrive_and_be_withdrawn(matcher, model, message)
            case "drop message", int(at) if at < len(model.unexpected):
                assert matcher.remove_unexpected(model.unexpected.pop(at))
            case "drop receive", int(at) if at < len(model.posted):
                assert matcher.remove_posted(model.posted.pop(at))
            case "lose", str(source):
                lose(matcher, model, source)
        assert len(matcher) == len(model.unexpected)
        assert set(matcher.all_posted()) == set(model.posted)


def test_a_misfit_keeps_its_place_before_later_messages_of_other_peers() -> None:
    matcher: Matcher[Arrived, Wanted] = Matcher()
    first, second = Arrived("a", 0, 1), Arrived("b", 0, 2)
    matcher.keep(first)
    matcher.keep(second)
    taken = matcher.message_for(Wanted("b", 0, 2))
    assert taken is second
    matcher.put_back(second)
    assert matcher.peek(0, None, None) is first


@pytest.mark.parametrize("wanted", [Wanted("a", 0, 1), Wanted(None, 0, None)])
def test_removing_what_was_matched_or_never_there_is_refused(wanted: Wanted) -> None:
    matcher: Matcher[Arrived, Wanted] = Matcher()
    assert not matcher.remove_posted(wanted)
    matcher.post(wanted)
    message = Arrived("a", 0, 1)
    assert matcher.receive_for(message) is wanted
    assert not matcher.remove_posted(wanted)
    assert not matcher.remove_unexpected(message)
    assert matcher.receive_for(Arrived("a", 0, 1)) is None


def test_receives_go_back_to_their_places_in_whatever_order_they_return() -> None:
    matcher: Matcher[Arrived, Wanted] = Matcher()
    receives = [Wanted(None, 0, 1) for _ in range(3)]
    for each in receives:
        matcher.post(each)
    taken = [matcher.receive_for(Arrived("a", 0, 1)) for _ in range(2)]
    assert taken == receives[:2]
    matcher.post_again(receives[0])
    matcher.post_again(receives[1])
    assert [matcher.receive_for(Arrived("b", 0, 1)) for _ in range(3)] == receives
