"""What torch asks a process group about itself: the part of the backend without operations.

All of it must be there: torch calls these names from C++, and its own answers would be
those of a group without a backend.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from . import BACKEND

# Any stands for torch's stores and devices. Names in capitals within are torch's.


class Described(dist.ProcessGroup):  # type: ignore[misc]  # torch is Any where it is not checked
    """A process group that knows who and what it is."""

    def __init__(self, rank: int, size: int, store: Any, label: str) -> None:
        super().__init__(rank, size)
        self._rank = rank
        self._size = size
        self._store = store
        self._label = label
        self._description = ""

    def getBackendName(self) -> str:  # noqa: N802
        """`sealed`."""
        return BACKEND

    def getRank(self) -> int:  # noqa: N802
        """This rank in the group."""
        return self._rank

    def getSize(self) -> int:  # noqa: N802
        """How many ranks the group has."""
        return self._size

    def setGroupName(self, name: str) -> None:  # noqa: N802
        """torch names the group."""
        self._label = name

    def getGroupName(self) -> str:  # noqa: N802
        """As torch has named it."""
        return self._label

    def setGroupDesc(self, description: str) -> None:  # noqa: N802
        """torch describes the group."""
        self._description = description

    def getGroupDesc(self) -> str:  # noqa: N802
        """As torch has described it."""
        return self._description

    def get_group_store(self) -> Any:
        """The store that the group was made with."""
        return self._store

    def _get_backend(self, device: Any) -> Described:
        return self

    @property
    def supports_splitting(self) -> bool:
        """It does not: a new group costs no connection of its own."""
        return False

    @property
    def supports_coalescing(self) -> bool:
        """Operations are under way together without being declared."""
        return False

    @property
    def supports_time_estimate(self) -> bool:
        """It does not."""
        return False

    def supports_tensor_alloc(self, device: Any) -> bool:
        """It has no memory of its own to offer."""
        return False
