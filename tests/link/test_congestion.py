"""How much may be in flight, under the constant window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.link.congestion import CongestionController, FixedWindow


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 20))
def test_both_limits_hold_and_one_packet_always_passes(
    size: int, in_flight: int, packets: int
) -> None:
    window = FixedWindow(1000, 10)
    assert window.admits(size, in_flight, packets) is (in_flight + size <= 1000 and packets < 10)
    assert window.admits(size, 0, 0)


def test_the_window_is_constant_whatever_happens() -> None:
    window: CongestionController = FixedWindow(1000, 10)
    for _ in range(100):
        window.on_sent(0, 100, 1.0)
        window.on_acknowledged(0, 100, 0.1, 1.1)
        window.on_acknowledged(0, 100, None, 1.1)
        window.on_lost(0, 100, 1.2)
    assert window.window_bytes == 1000
