"""Collective operations over sealed links.

steps, reducing, moving   what each rank does, as pure functions of rank and size
tuning                    which of them, by size
execution                 carries one out over memory, without I/O
reduction                 the arithmetic
membership                who takes part, and how all learn of a failure
operation, runner         an execution joined to the node
reductions, exchanges,
group                     the API
rendezvous                groups from the environment of a launcher
"""

from .group import Group
from .reduction import Kernel, NumpyKernel, PremulSum
from .rendezvous import connect_group
from .tuning import Tuning

__all__ = ["Group", "Kernel", "NumpyKernel", "PremulSum", "Tuning", "connect_group"]
