"""Challenges: fresh once, for who asked, for a minute."""

from __future__ import annotations

import pytest

from support.kms import NOW
from transport.identity.kms import challenge
from transport.identity.kms.challenge import LIFETIME, ChallengeError, Challenges


def test_a_challenge_is_accepted_once():
    challenges = Challenges()
    issued = challenges.issue("a", NOW)
    assert len(issued) == challenge.CHALLENGE_LEN == 32
    challenges.spend(issued, "a", NOW + 1)
    with pytest.raises(ChallengeError, match="replay"):
        challenges.spend(issued, "a", NOW + 2)


def test_each_is_another():
    challenges = Challenges()
    assert len({challenges.issue("a", NOW) for _ in range(100)}) == 100


@pytest.mark.parametrize("later", [LIFETIME + 0.1, 3600.0, -120.0])
def test_one_that_is_not_of_this_minute_is_refused(later):
    challenges = Challenges()
    with pytest.raises(ChallengeError, match="expired"):
        challenges.spend(challenges.issue("a", NOW), "a", NOW + later)


def test_one_of_another_caller_or_process_is_refused():
    challenges = Challenges()
    issued = challenges.issue("a", NOW)
    for judge, caller in ((challenges, "b"), (Challenges(), "a")):
        with pytest.raises(ChallengeError, match="another"):
            judge.spend(issued, caller, NOW)
    challenges.spend(issued, "a", NOW)


@pytest.mark.parametrize("wrong", [None, b"", bytes(31), bytes(32), bytes(33)])
def test_what_is_no_challenge_is_refused(wrong):
    with pytest.raises(ChallengeError):
        Challenges().spend(wrong, "a", NOW)


@pytest.mark.parametrize("at", range(32))
def test_no_byte_of_it_can_be_changed(at):
    challenges = Challenges()
    issued = bytearray(challenges.issue("a", NOW))
    issued[at] ^= 1
    with pytest.raises(ChallengeError):
        challenges.spend(bytes(issued), "a", NOW)


def test_memory_is_bounded_and_comes_back(monkeypatch):
    monkeypatch.setattr(challenge, "SPENT_LIMIT", 10)
    challenges = Challenges()
    for _ in range(10):
        challenges.spend(challenges.issue("a", NOW), "a", NOW)
    with pytest.raises(ChallengeError, match="10 challenges"):
        challenges.spend(challenges.issue("a", NOW), "a", NOW)
    later = NOW + LIFETIME + 1
    challenges.spend(challenges.issue("a", later), "a", later)
