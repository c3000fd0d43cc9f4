"""The experiments by name."""

from __future__ import annotations

from typing import Final

from .courses import Failure, Fairness, WideArea
from .experiment import Experiment
from .transfers import Burst, Imbalance, Incast, Permutation, Single

EXPERIMENTS: Final[dict[str, type[Experiment]]] = {
    each.name: each
    for each in (
        Single,
        Permutation,
        Incast,
        Burst,
        Imbalance,
        Fairness,
        Failure,
        WideArea,
    )
}
