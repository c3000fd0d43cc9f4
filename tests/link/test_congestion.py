"""How much may be in flight, under the constant window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.link.congestion import CongestionController, Delivery, FixedWindow
from transport.link.paths import PathState


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 20))
def test_both_limits_hold_and_one_packet_always_passes(
    size: int, in_flight: int, packets: int
) -> None:
    window = FixedWindow(1000, 10)
    assert window.admits(size, in_flight, packets) is (in_flight + size <= 1000 and packets < 10)
    assert window.admits(size, 0, 0)


def test_the_window_is_constant_whatever_happens() -> None:
    window: CongestionController = FixedWindow(1000, 10)
    path = PathState(0, object(), "", 0.0)
    for count in range(100):
        window.on_sent(path, 100, 1.0)
        window.on_acknowledged(path, 100, 0.1, 1.1)
        window.on_acknowledged(path, 100, None, 1.1)
        window.on_delivery(Delivery(200, 200 * count, 0, 1e9, False), 1.1)
        window.on_lost(path, 100, 1.2)
        window.on_silence(1.3)
    assert window.window_bytes == 1000
