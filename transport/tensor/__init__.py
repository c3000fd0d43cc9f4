"""Tensors without a framework: what they are (`spec`) and where their bytes lie (`views`)."""

from __future__ import annotations

from .spec import DTYPE_NAMES, RAW_DTYPE, MalformedSpecError, TensorSpec
from .views import (
    DestinationView,
    SourceView,
    check_fits,
    destination_view,
    new_array,
    source_view,
)

__all__ = [
    "DTYPE_NAMES",
    "RAW_DTYPE",
    "DestinationView",
    "MalformedSpecError",
    "SourceView",
    "TensorSpec",
    "check_fits",
    "destination_view",
    "new_array",
    "source_view",
]
