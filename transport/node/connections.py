"""Endpoints and paths of a node: where it listens, whom it dials, which path is whose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from ..config import Config
from ..link import Link, State
from ..path.base import Endpoint, Path, PathFilter
from ..path.shared_memory import Channel
from ..path.zeromq import Dialer, ZeroMQ

if TYPE_CHECKING:
    from .driver import Driver
    from .neighbour import Neighbours


class Connections(ABC):
    """The base of `Engine`, which makes the driver and knows when things happen."""

    driver: Driver
    neighbours: Neighbours

    def __init__(self, config: Config, packet_limit: int, path_filter: PathFilter | None) -> None:
        self._path_filter = path_filter
        self._zeromq = ZeroMQ(config, packet_limit)
        self._endpoints: dict[int, Endpoint] = {}  # by descriptor
        self._monitored: dict[int, Endpoint] = {}  # by monitor's descriptor
        self._stirred: dict[Endpoint, bool] = {}  # may have packets; True where signalled
        self._paths: dict[Link, list[Path]] = {}
        self._active: dict[Link, None] = {}  # have packets to send or events to take

    @abstractmethod
    def call_later(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` under the lock after `delay` seconds."""

    def listen(self, address: str) -> str:
        """Bind; return the address with its port filled in."""
        listener = self._zeromq.listen(address)
        path_filter = self._path_filter
        if path_filter is not None:
            listener.path_filter = lambda path: path_filter(path, self.call_later)
        self._watch(listener)
        return listener.address

    def _watch(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.descriptor] = endpoint
        self.driver.watch(endpoint.descriptor)
        if endpoint.monitor_descriptor is not None:
            self._monitored[endpoint.monitor_descriptor] = endpoint
            self.driver.watch(endpoint.monitor_descriptor)
        self._stirred[endpoint] = False

    def _unwatch(self, endpoint: Endpoint) -> None:
        if self._endpoints.pop(endpoint.descriptor, None) is not None:
            self.driver.unwatch(endpoint.descriptor)
            if endpoint.monitor_descriptor is not None:
                del self._monitored[endpoint.monitor_descriptor]
                self.driver.unwatch(endpoint.monitor_descriptor)
        self._stirred.pop(endpoint, None)
        endpoint.close()

    def dial(self, link: Link, address: str, now: float) -> None:
        """Open one more path of ours for `link`."""
        dialer = self._zeromq.dial(address)
        path: Path = dialer
        if self._path_filter is not None:
            path = dialer.filtered = self._path_filter(dialer, self.call_later)
        self._watch(dialer)
        self._paths.setdefault(link, []).append(path)
        link.add_path(path, address, now)
        self.touch(link)
        # The monitor's descriptor signals nothing before it was first found empty.
        self._check_connectivity(dialer)

    def join(self, link: Link, channel: Channel) -> None:
        """Both sides of shared memory with a peer are mapped: its link may use it."""
        self._watch(channel)
        link.add_local_path(channel, channel.slots, channel.address, monotonic())
        self.touch(link)

    def part(self, link: Link, channel: Channel) -> None:
        """No more packets through this memory; what was in flight there goes other ways."""
        link.path_down(channel, channel.fault or "given up", monotonic())
        self._unwatch(channel)
        self.touch(link)

    def touch(self, link: Link) -> None:
        """`link` was given something to do."""
        self._active[link] = None

    def _check_connectivity(self, endpoint: Endpoint) -> None:
        now = monotonic()
        for path, connected in endpoint.connectivity():
            for link, paths in self._paths.items():
                if path in paths and link.state is not State.CLOSED:
                    if connected:
                        link.path_up(path, now)
                    else:
                        link.path_down(path, "connection cut", now)
                    self._active[link] = None

    def _bind(self, link: Link, path: Path) -> None:
        """A caller reaches us over `path`; of connections it has given up, nothing is kept."""
        in_use = [state.handle for state in link.paths]
        known = self._paths.get(link, [])
        self._paths[link] = [path, *filter(in_use.__contains__, known)]
        for each in known:
            if each not in in_use:
                each.close()

    def _release(self, link: Link) -> None:
        """The link is closed and its last packets are sent: let go of its paths."""
        self.neighbours.released(link)
        for path in self._paths.pop(link, ()):
            if isinstance(path.endpoint, Dialer):
                self._unwatch(path.endpoint)
            else:
                path.close()
