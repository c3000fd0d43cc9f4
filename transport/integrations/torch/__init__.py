"""PyTorch: the `sealed` backend of torch.distributed.

    torch.distributed.init_process_group("sealed")

is all that a script changes. `autoload` is this package's entry point in the groups
`torch.backends`, which torch calls while it is being imported, and
`torch.distributed.backends`, which later versions call when somebody first names the
backend. Nothing but registration happens there: sockets, threads and cryptography are
imported when a process group is made.

backend       the process group: torch's calls, as operations of a `Group`
gathers       what calls with lists of tensors become
sparse        all_reduce of sparse tensors
operands      torch tensors as flat memory
kernel        reductions by torch, of dtypes that numpy lacks
work, futures operations under way, and how they end in torch's terms
staging       CUDA tensors through pinned memory
endpoint      this process's node, and how ranks find each other through the store
options       what a process group may be told
errors        errors that are torch's and the library's
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import Options

__all__ = ["BACKEND", "DEVICES", "Options", "autoload", "register"]

BACKEND = "sealed"
DEVICES = ("cpu", "cuda")

log = logging.getLogger("transport")


def register() -> None:
    """Make the backend known to torch.distributed; again is allowed.

    Only needed where entry points are off (TORCH_DEVICE_BACKEND_AUTOLOAD=0).
    """
    import torch.distributed as dist

    if dist.is_available() and BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=list(DEVICES))


def autoload() -> None:
    """The entry point: `register`, but `import torch` must not fail because of it."""
    try:
        register()
    except Exception:
        log.exception("torch could not be told of the backend %r", BACKEND)


def _create(settings: Any, options: Any) -> Any:  # torch's types are not known here
    from .backend import create

    return create(settings, options)


def __getattr__(name: str) -> object:
    if name == "Options":
        from .options import Options

        return Options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
