"""The node: the only loop, thread and wall clock of the library.

node       the API that programs use
messages   sends, receives, and how each ends
matching   which message goes to which receive
work       the handle of one operation
engine     packets between paths and links
directory  which links there are, and who may make one
channel    a context of its own, for collectives
driver     which thread does all this
"""

import logging as _logging

from .handle import PeerLink
from .node import Node, NodeStats
from .work import Work

__all__ = ["Node", "NodeStats", "PeerLink", "Work"]

# A library speaks only where its user has asked to hear it.
_logging.getLogger("transport").addHandler(_logging.NullHandler())
