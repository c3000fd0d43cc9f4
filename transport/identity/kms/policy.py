"""A key's attestation policy as the key store keeps it: JSON, with whole root certificates.

The store must not depend on files beside it, which others could replace, so the roots
stand in the policy's text itself, under the MAC of the key's record.
"""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.serialization import Encoding

from ..attestation import AttestationPolicy, Root


def policy_text(policy: AttestationPolicy) -> str:
    """Return `policy` as text for `KeyStore.add`."""
    roots = [root.certificate.public_bytes(Encoding.DER) for root in policy.roots]
    return json.dumps(
        {
            "allow_debug": policy.allow_debug,
            "clock_skew": policy.clock_skew,
            "max_age": policy.max_age,
            "pcrs": {
                str(index): sorted(value.hex() for value in values)
                for index, values in policy.pcrs.items()
            },
            "roots": [base64.b64encode(der).decode("ascii") for der in roots],
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def policy_from(text: str) -> AttestationPolicy:
    """Return the policy that `policy_text` wrote.

    Raises:
        UsageError: it can never hold, by the rules of this release.
    """
    fields = json.loads(text)
    return AttestationPolicy(
        {int(index): values for index, values in fields["pcrs"].items()},
        roots=[Root.parse(base64.b64decode(der)) for der in fields["roots"]],
        max_age=fields["max_age"],
        clock_skew=fields["clock_skew"],
        allow_debug=fields["allow_debug"],
    )
