"""Every limit and every tunable of a node, by name, in one frozen value.

Sizes are bytes and times are seconds unless the name carries a unit. Each
buffer that grows from what a peer sends is bounded by a field of this class;
docs/spec.md section 10 lists them beside the rule they enforce.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a node behaves and how much it lets its peers ask of it.

    Raises:
        UsageError: a value is out of its range, or two contradict each other.
    """

    # --- paths -----------------------------------------------------------------
    paths: int = 4  # paths a link opens to each peer, spread over its addresses
    shared_memory: bool = True  # cross in memory where the peer is on this host
    shared_payload: int = 2 * MIB  # tensor bytes in a packet there, midway through a message
    shared_slots: int = 3  # large packets in flight there, each in memory of its own
    shared_memory_bytes: int = 256 * MIB  # of all segments of this node; past it links use TCP
    io_threads: int = 2  # ZeroMQ I/O threads: a flood must not take the only one
    kernel_buffer: int = 4 * MIB  # SO_SNDBUF and SO_RCVBUF of each TCP path
    receive_queue_packets: int = 64  # packets ZeroMQ may hold for us, per connection
    reconnect_interval: float = 0.05  # first pause before a cut TCP path is redialled
    reconnect_interval_max: float = 1.0  # the pause doubles up to this

    keep_freed_packets: bool = True  # let glibc reuse packet memory (a setting of the process)

    # --- packets and flight ------------------------------------------------------
    packet_payload: int = 1 * MIB  # tensor bytes in one bulk packet
    eager_limit: int = 64 * KIB  # messages up to this travel inside their announcement
    window_bytes: int = 4 * MIB + 64 * KIB  # sealed and not yet acknowledged, per link
    window_packets: int = 1024  # the same in packets; at most half the replay window
    spare_slots: int = 8  # packet pool slots kept for reuse, per link
    acknowledge_after: float = 0.001  # longest an acknowledgement waits: this host's slowness

    # --- what a peer may make us hold ----------------------------------------------
    unexpected_bytes: int = 16 * MIB  # messages that no receive has claimed, per peer
    message_limit: int = 64 * GIB  # announced size above which a message is refused
    links: int = 4096  # linked peers of one node
    half_open_links: int = 64  # handshakes that callers have begun and not finished
    handshakes_remembered: int = 4096  # first messages kept to recognise a replayed one

    # --- time ------------------------------------------------------------------------
    handshake_retry: float = 0.25  # first pause before a handshake message is repeated
    handshake_deadline: float = 10.0  # a caller's unfinished handshake is forgotten then
    heartbeat_interval: float = 1.0  # a silent path is probed this often
    peer_timeout: float = 8.0  # silence after which a peer counts as lost
    retransmit_min: float = 0.02  # how late this process may act: GIL, time slices (RFC 9002 6.1.2)
    retransmit_max: float = 2.0  # longest, after backing off
    rehandshake_interval: float = 3600.0  # fresh keys over the living link at least this often

    # --- keys ----------------------------------------------------------------------------
    advantage_exponent: int = 60  # hard stop where an attacker's advantage reaches 2^-this

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise UsageError(f"Config.{field.name} must be a positive number, got {value!r}")
            if field.type == "int" and not isinstance(value, int):
                raise UsageError(f"Config.{field.name} must be a whole number, got {value!r}")
        self._within("paths", 1, 256)
        self._within("shared_payload", 1 * KIB, 16 * MIB)
        self._within("shared_slots", 1, 64)
        self._within("packet_payload", 1 * KIB, 16 * MIB)
        self._within("eager_limit", 256, 256 * KIB)
        self._within("window_packets", 8, 4096)
        self._within("advantage_exponent", 50, 75)
        if self.window_bytes < 2 * self.packet_payload:
            raise UsageError(
                f"Config.window_bytes ({self.window_bytes}) must hold at least two packets "
                f"of Config.packet_payload ({self.packet_payload})"
            )
        if self.unexpected_bytes < 4 * self.eager_limit:
            raise UsageError(
                f"Config.unexpected_bytes ({self.unexpected_bytes}) must hold at least four "
                f"messages of Config.eager_limit ({self.eager_limit})"
            )
        if self.peer_timeout <= 2 * self.heartbeat_interval:
            raise UsageError(
                f"Config.peer_timeout ({self.peer_timeout}) must exceed two heartbeats "
                f"of {self.heartbeat_interval} s"
            )

    def _within(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise UsageError(f"Config.{name} must lie between {low} and {high}, got {value}")
