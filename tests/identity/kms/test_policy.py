"""A policy in the store means what it meant, and depends on no file."""

from __future__ import annotations

from support.kms import World, world
from transport.identity.attestation import AttestationPolicy
from transport.identity.kms import policy_from, policy_text


def test_a_policy_survives_the_store(tmp_path):
    with world(tmp_path) as made:
        for policy in policies(made):
            text = policy_text(policy)
            assert policy_from(text).to_json() == policy.to_json()
            assert policy_text(policy_from(text)) == text


def policies(made: World):
    yield made.policy()
    yield made.policy(max_age=7.0, clock_skew=1.0)
    yield AttestationPolicy({0: [bytes(48)], 1: [bytes(48)]}, allow_debug=True)
    yield AttestationPolicy({3: ["ab" * 48, "cd" * 48], 15: ["01" * 48]})
