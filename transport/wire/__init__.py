"""The bytes on the wire: packet headers, frames, and their strict codecs (docs/spec.md 3-5).

Nothing here knows a key or a peer. Every parser of this package may be fed
bytes from an enemy: it either returns a value whose fields were checked, or
raises `MalformedError` and nothing else.
"""

from .codec import MalformedError

__all__ = ["MalformedError"]
