"""Finds the shared public test vectors, which lie beside the project, not in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_DEFAULT_FOLDER = _PROJECT_ROOT.parent / "shared" / "vectors"


def vectors(relative_path: str | Path) -> Path:
    """Return the path of a vector file or folder, or skip the test and say why.

    The folder is `SEALFABRIC_VECTORS` where that is set, else `../shared/vectors`
    beside the project. Called at module level, it skips the whole module.
    """
    folder = Path(os.environ.get("SEALFABRIC_VECTORS") or _DEFAULT_FOLDER)
    path = folder / relative_path
    if not path.exists():
        pytest.skip(
            f"test vectors are absent: {path} (set SEALFABRIC_VECTORS to their folder)",
            allow_module_level=True,
        )
    return path
