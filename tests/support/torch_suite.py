"""Opens four more tests of PyTorch's own suite to the backend under test.

The suite prepares the model of its tests of gradient accumulation only for the backends
that it names itself, and leaves it undefined for others. Imported first (SUITE_IMPORT),
this module has the suite prepare it on the CPU for the tested one, as for Gloo.
"""

from __future__ import annotations

import importlib.machinery
import os

SUITE = "torch.testing._internal.distributed.distributed_test"
ASKED = 'BACKEND == "mpi" or BACKEND == "gloo"'

_get_source = importlib.machinery.SourceFileLoader.get_source


def _opened(loader: importlib.machinery.SourceFileLoader, fullname: str) -> str | None:
    source = _get_source(loader, fullname)
    if fullname != SUITE or source is None:
        return source
    if ASKED not in source:
        raise RuntimeError(f"{SUITE} does not ask {ASKED!r} any more")
    return source.replace(ASKED, f'BACKEND in ("mpi", "gloo", "{os.environ["BACKEND"]}")')


importlib.machinery.SourceFileLoader.get_source = _opened  # type: ignore[method-assign]
