"""How often a waiter looks before it sleeps."""

from __future__ import annotations

from time import monotonic

from transport.path.shared_memory import Spinner
from transport.path.shared_memory.spin import LOOKS, TRUST

FAR = 1e9


class Looks:
    """Counts the looks, and holds from the given one on."""

    def __init__(self, holds_from: float = float("inf")) -> None:
        self.count = 0
        self._holds_from = holds_from

    def __call__(self) -> bool:
        self.count += 1
        return self.count >= self._holds_from


def test_what_is_there_already_is_seen_at_the_first_look() -> None:
    looks = Looks(1)
    assert Spinner().wait(looks, FAR)
    assert looks.count == 1


def test_it_sees_what_comes_while_it_looks() -> None:
    looks = Looks(LOOKS - 1)
    assert Spinner().wait(looks, FAR)
    assert looks.count == LOOKS - 1


def test_it_does_not_look_past_its_time() -> None:
    looks = Looks()
    assert not Spinner().wait(looks, monotonic() - 1)
    assert looks.count == LOOKS


def test_after_many_looks_in_vain_it_sleeps_at_once_for_a_while() -> None:
    spinner, past = Spinner(), monotonic() - 1
    for _ in range(TRUST):
        looks = Looks()
        assert not spinner.wait(looks, past)
        assert looks.count > 1
    for _ in range(TRUST):
        looks = Looks()
        assert not spinner.wait(looks, past)
        assert looks.count == 1
    looks = Looks(2)
    assert spinner.wait(looks, FAR), "one more chance"
    looks = Looks()
    assert not spinner.wait(looks, past)
    assert looks.count > 1, "which paid, so it is trusted again"
