"""Who a node is (`Identity`) and whom it trusts (`Trust`).

Nothing here knows of links or nodes: it loads, checks and derives keys.
"""

from __future__ import annotations

from .keys import Identity, fingerprint
from .trust import Trust, check_name
from .trust_file import rank_name

__all__ = ["Identity", "Trust", "check_name", "fingerprint", "rank_name"]
