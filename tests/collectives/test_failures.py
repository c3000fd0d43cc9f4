"""What goes wrong in a group: every rank learns, in bounded time, who is to blame."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from support.groups import error_of, grouped, on_all
from support.job import job, said, shared_secret
from support.nodes import node, together, until
from transport import (
    AuthenticationError,
    ClosedError,
    Group,
    PeerLostError,
    TransportError,
    TransportTimeoutError,
    UsageError,
)
from transport.collectives import Tuning
from transport.collectives.membership import DIRECT
from transport.link.drops import DISCARDED


def errors_of(groups, call):
    return on_all(groups, lambda group: error_of(lambda: call(group)))


# --- ranks that disagree -----------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 60_000])
@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda g, n: g.all_reduce(np.ones(n + 1, "f4")), "float32[{m}]"),
        (lambda g, n: g.all_reduce(np.ones((n // 2, 2), "f4")), "float32[{h}, 2]"),
        (lambda g, n: g.all_reduce(np.ones(n, "i4")), "int32[{n}]"),
        (lambda g, n: g.all_reduce(np.ones(n, "f4"), "max"), "op max"),
        (lambda g, n: g.all_gather(np.ones(n, "f4")), "all_gather"),
        (lambda g, n: g.barrier(), "barrier"),
    ],
)
def test_a_rank_that_calls_something_else_is_named(odd, words, count):
    with grouped(3, timeout=10.0) as groups:
        odd_one = groups[1]

        def call(group):
            if group is odd_one:
                return odd(group, count)
            return group.all_reduce(np.ones(count, "f4"))

        errors = errors_of(groups, call)
        assert all(isinstance(error, UsageError) for error in errors), errors
        assert all("rank" in str(error) for error in errors)
        expected = words.format(n=count, m=count + 1, h=count // 2)
        # Whoever finds out first says what the odd one does, or what the others do instead.
        said = [str(error) for error in errors]
        assert any(expected in each and "all_reduce" in each for each in said), said


def test_another_root_is_found_out():
    with grouped(3, timeout=10.0) as groups:

        def call(group):
            group.broadcast(np.ones(4), root=group.rank)
            group.barrier()  # at the latest: who only sends may have been done

        errors = errors_of(groups, call)
        assert all(isinstance(error, UsageError) for error in errors), errors
        assert any("root" in str(error) or "broadcast" in str(error) for error in errors)


def test_a_message_that_no_operation_expects_is_found_out():
    """One rank broadcasts what the others do not wait for: they are dealt something."""
    with grouped(3, timeout=10.0) as groups:

        def call(group):
            if group.rank == 2:
                group.broadcast(np.ones(3), root=2)
            elif group.rank == 1:
                group.scatter(out=np.ones(1))
            else:
                group.scatter(np.ones(3))
            group.barrier()

        errors = errors_of(groups, call)
        assert all(isinstance(error, UsageError) for error in errors), errors
        # Which of the two is named depends on who finds out first.
        calls = "calls broadcast of float64[3]", "calls scatter of float64[1]"
        assert all(any(call in str(error) for call in calls) for error in errors), errors


def test_another_tuning_is_found_out():
    with grouped(2) as groups:
        nodes = [group.node for group in groups]
        members = {node.name: node.addresses for node in nodes}
        tunings = Tuning(), Tuning(ahead=3)
        pair = [
            Group(node, members, timeout=10.0, tuning=tuning)
            for node, tuning in zip(nodes, tunings, strict=True)
        ]
        errors = errors_of(pair, lambda g: g.all_reduce(np.ones(3)))
        assert any("another Tuning" in str(error) for error in errors)


def test_a_failed_group_stays_failed_and_says_why():
    with grouped(2, timeout=10.0) as groups:
        errors_of(groups, lambda g: g.all_reduce(np.ones(3 + g.rank)))
        for group in groups:
            assert isinstance(group.error, UsageError)
            again = error_of(lambda group=group: group.all_reduce(np.ones(3)))
            assert isinstance(again, UsageError)
            assert "the group cannot be used any more" in str(again)
            assert isinstance(
                error_of(lambda group=group: group.send(b"x", 1 - group.rank)), UsageError
            )


# --- ranks that are late, closed or lost -------------------------------------------------


def test_an_operation_ends_at_its_deadline_and_names_who_was_missing():
    with grouped(3) as groups:
        on_all(groups, lambda g: g.barrier())
        absent = groups[2]

        def call(group):
            # Rank 1 would wait for ever; it hears of it from rank 0.
            return group.barrier(timeout=0.3 if group.rank == 0 else 60.0)

        errors = errors_of(groups[:2], call)
        assert all(isinstance(error, TransportTimeoutError) for error in errors)
        assert "still waiting for" in str(errors[0])
        assert "rank 2 ('n2')" in str(errors[0])
        assert "0.3 s" in str(errors[1])
        until(lambda: absent.error is not None)
        assert isinstance(absent.error, TransportTimeoutError)


def test_operations_under_way_end_with_the_group():
    with grouped(2) as groups:
        on_all(groups, lambda g: g.barrier())
        first, second = groups
        works = [first.iall_reduce(np.ones(300_000)), first.ibarrier(), first.irecv(source=1)]
        second.close()
        assert isinstance(error_of(lambda: second.barrier()), ClosedError)
        # Rank 0 sends to a group that is closed, and is told so.
        for work in works:
            error = error_of(lambda work=work: work.wait(20))
            assert isinstance(error, PeerLostError)
            assert "rank 1 ('n1')" in str(error)


def test_closing_leaves_alone_who_is_only_behind():
    with grouped(2) as groups:
        first, second = groups

        def early(group):
            group.broadcast(np.ones(3))
            group.close()

        early(first)
        array = np.zeros(3)
        second.broadcast(array)
        assert array.all()


def test_what_a_rank_delivered_before_it_left_may_still_be_received():
    with grouped(2) as groups:
        first, second = groups
        on_all(groups, lambda g: g.barrier())
        for number in range(3):
            first.send(np.full(5, number), 1, tag=7)
        first.close()
        first.node.close()
        until(lambda: second.node._directory.link_to("n0") is None)
        for number in range(3):
            assert (second.recv(source=0, tag=7) == number).all()
        for tag in (7, 8):
            error = error_of(lambda tag=tag: second.recv(source=0, tag=tag))
            assert isinstance(error, PeerLostError)


ONE_WAY = {  # whether the root sends, and what each rank calls
    "broadcast": (True, lambda group, array: group.broadcast(array)),
    "scatter": (
        True,
        lambda group, array: group.scatter(
            np.concatenate([array] * group.size) if group.rank == 0 else None, out=array
        ),
    ),
    "reduce": (False, lambda group, array: group.reduce(array)),
    "gather": (False, lambda group, array: group.gather(array)),
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("length", [5, 3000, 40_000])  # of one packet, of two, in pieces unasked
@pytest.mark.parametrize("name", ONE_WAY)
def test_a_rank_may_leave_once_its_part_is_delivered(name, length, first):
    root_sends, call = ONE_WAY[name]
    with grouped(4) as groups:
        if not first:
            on_all(groups, lambda group: group.barrier())
        early, late = (groups[:1], groups[1:]) if root_sends else (groups[1:], groups[:1])

        def leave(group):
            call(group, np.full(length, float(group.rank)))
            group.close()
            group.node.close()

        on_all(early, leave)
        for group in late:
            gone = [f"n{each.rank}" for each in early]
            until(lambda at=group.node._directory, gone=gone: not any(map(at.link_to, gone)))
        results = on_all(late, lambda group: call(group, np.full(length, float(group.rank))))
        expected = {"broadcast": 0.0, "scatter": 0.0, "reduce": 6.0}
        for result in results:
            if name == "gather":
                assert (np.split(result, 4)[3] == 3.0).all()
            else:
                assert (result == expected[name]).all()


@pytest.mark.parametrize("source", [0, None], ids=["rank 0", "any rank"])
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_message_of_a_rank_that_has_left_is_its_own(source, made):
    with node("n0") as first, node("n1") as second:
        members = {each.name: each.addresses for each in (first, second)}
        keys = {"n0": first._directory._terms.identity.public_key}

        def group(at):
            return Group(at, members, keys=keys, timeout=10.0, connect_timeout=10.0)

        sender = group(first)
        receiver = group(second) if made == "before" else None
        sender.send(np.full(5, 3.0), 1)
        sender.close()
        first.close()
        until(lambda: second._directory.link_to("n0") is None)
        receiver = receiver or group(second)
        assert (receiver.recv(source=source) == 3.0).all()


@pytest.mark.parametrize("stays", [True, False], ids=["and stays", "and leaves"])
def test_a_message_under_another_key_than_announced_is_nobodys(stays):
    with node("n0") as impostor, node("n1") as second:
        members = {each.name: each.addresses for each in (impostor, second)}
        Group(impostor, members).send(np.zeros(5), 1)
        until(lambda: second.stats().unclaimed_messages == 1)
        if not stays:
            impostor.close()
            until(lambda: second._directory.link_to("n0") is None)
        group = Group(second, members, keys={"n0": bytes(32)}, timeout=0.3, connect_timeout=0.3)
        assert isinstance(error_of(group.recv), TransportTimeoutError)


@contextmanager
def group_and_impostor(part, *, keys, first):
    """Rank 1 of two, after rank 0 has done its part and left and another came under its name."""
    with node("n1") as second:
        with node("n0") as real:
            members = {each.name: each.addresses for each in (real, second)}
            known = {"n0": real._directory._terms.identity.public_key} if keys else None
            groups = [
                Group(real, members, timeout=10.0),
                Group(second, members, keys=known, timeout=10.0),
            ]
            if not first:
                on_all(groups, lambda group: group.barrier())
            part(groups[0])
            context = groups[0]._membership.channel.context
        until(lambda: second._directory.link_to("n0") is None)
        with node("n0") as impostor:
            impostor.connect(second.addresses, peer="n1")
            until(lambda: second._directory.link_to("n0") is not None)
            yield groups[1], impostor.channel(context)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
def test_who_comes_under_the_name_of_a_rank_that_has_left_is_not_that_rank(keys, first):
    def part(group):
        group.broadcast(np.ones(5))

    with group_and_impostor(part, keys=keys, first=first) as (group, _):
        error = error_of(lambda: group.broadcast(np.zeros(5)))
        assert isinstance(error, AuthenticationError if keys else PeerLostError)


def test_what_such_a_one_sends_leaves_alone_what_the_rank_had_sent():
    def part(group):
        group.send(np.full(5, 3.0), 1, tag=5)

    with group_and_impostor(part, keys=True, first=True) as (group, channel):
        with channel:
            channel.send(b"x", to="n1", tag=DIRECT | 6)
            channel.pump()
        drops = group.node._messages.drops
        until(lambda: drops[DISCARDED] == 1)
        assert (group.recv(tag=5) == 3.0).all()


def test_a_closed_node_is_a_lost_rank_for_all():
    with grouped(4, timeout=20.0) as groups:
        on_all(groups, lambda g: g.barrier())
        groups[3].node.close()
        errors = errors_of(groups[:3], lambda g: g.all_reduce(np.ones(100_000)))
        for error in errors:
            assert isinstance(error, PeerLostError)
            assert "rank 3 ('n3') is lost" in str(error)
        assert isinstance(error_of(lambda: groups[3].barrier()), TransportError)


def test_a_rank_that_never_came_is_named():
    with grouped(1) as groups:
        (alone,) = groups
        members = {"n0": alone.node.addresses, "ghost": "tcp://127.0.0.1:9"}
        group = Group(alone.node, members, connect_timeout=0.5)
        error = error_of(lambda: group.all_reduce(np.ones(3)))
        assert isinstance(error, PeerLostError)
        assert "rank 1 ('ghost') cannot be reached" in str(error)
        waiting = Group(alone.node, ["n0", "other"], connect_timeout=0.3)
        error = error_of(lambda: waiting.barrier())
        assert "rank 1 ('other') cannot be reached" in str(error)


def test_a_late_message_ends_alone():
    with grouped(2) as groups:
        error = error_of(lambda: groups[0].recv(source=1, timeout=0.2))
        assert isinstance(error, TransportTimeoutError)
        assert "recv from rank 1 ('n1') (tag 0)" in str(error)
        work = groups[0].irecv(source=1)
        assert work.cancel()
        assert on_all(groups, lambda g: g.all_reduce(np.ones(1)))[1][0] == 2.0


def test_whoever_shares_the_trust_but_not_the_group_is_not_heard():
    with grouped(3) as groups:
        nodes = [group.node for group in groups]
        pair = [
            Group(node, {n.name: n.addresses for n in nodes[:2]}, timeout=20) for node in nodes[:2]
        ]
        together(lambda: pair[0].barrier(), lambda: pair[1].barrier())
        stranger = nodes[2]
        stranger.connect(nodes[0].addresses, peer="n0")
        receiving = pair[0].irecv(np.empty(1))
        # The stranger would have to guess the context; here it is told.
        context = pair_context(nodes[:2])
        notice = (2 << 62, 3 << 62, 1 << 62, 2, 77)
        for tag in notice:
            stranger.isend(np.array([1.0]), to="n0", tag=tag, context=context).wait(20)
        stranger.flush("n0", timeout=20)
        pair[1].send(np.array([5.0]), 0)
        assert receiving.wait(20)[0] == 5.0
        assert pair[0].error is None
        results = together(*(lambda g=g: g.all_reduce(np.ones(3)) for g in pair))
        assert all((result == 2.0).all() for result in results)


def pair_context(nodes):
    """The context of the first group of these nodes: see `membership`."""
    identity = repr((tuple(node.name for node in nodes), "", 1))
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "little") | 1


# --- processes that die ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_processes_meet_and_reduce(tmp_path, size):
    with job(size, "reduce", shared_secret(tmp_path)) as processes:
        answers = [said(process) for process in processes]
        assert [process.wait(30) for process in processes] == [0] * size
    assert [each["rank"] for each in answers] == list(range(size))
    assert len({each["digest"] for each in answers}) == 1
    assert all(each["sum"] == sum(range(1, size + 1)) for each in answers)


@pytest.mark.slow
def test_a_process_killed_in_mid_all_reduce_is_named_by_the_other_three(tmp_path):
    with job(4, "reduce-for-ever", shared_secret(tmp_path)) as processes:
        for process in processes:
            assert said(process)["rounds"] > 0  # every rank is in the middle of it
        os.kill(processes[2].pid, signal.SIGKILL)
        for rank in (0, 1, 3):
            answer = said(processes[rank])
            assert answer["error"] == "PeerLostError", answer
            assert "rank 2 ('rank-2') is lost" in answer["text"]
        assert [processes[rank].wait(30) for rank in (0, 1, 3)] == [0, 0, 0]
