"""A chain holds only if every link of it may be where it is, and signed what is below."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA512

from support.attestation import NOW, Certified, authority, certify, document_of, entries, leaf
from transport.identity.attestation import Refusal, RefusedEvidenceError, nitro_root
from transport.identity.attestation.chain import Chain, summaries, verify_chain

Made = tuple[Certified, ...]


def judged(chain: Made, root: Certified | None = None) -> Chain:
    ders = [each.der for each in chain]
    return verify_chain(ders[:-1], ders[-1], [(root or chain[0]).root])


def refusal_of(chain: Made) -> RefusedEvidenceError:
    with pytest.raises(RefusedEvidenceError) as caught:
        judged(chain)
    return caught.value


def root(**changes: object) -> Certified:
    return certify("root", **changes)  # type: ignore[arg-type]


def test_a_sound_chain_of_any_length_holds() -> None:
    top = root()
    middle = certify("middle", top, path_length=1)
    low = certify("low", middle, path_length=0)
    for chain in ((top, leaf(top)), (top, middle, leaf(middle)), (top, middle, low, leaf(low))):
        held = judged(chain)
        assert held.root == top.root
        assert [each.subject for each in held.certificates] == [
            each.certificate.subject.rfc4514_string() for each in chain
        ]


def test_the_root_is_known_by_its_bytes_alone() -> None:
    genuine = root()
    namesake = root()
    with pytest.raises(RefusedEvidenceError) as caught:
        judged((namesake, leaf(namesake)), root=genuine)
    assert caught.value.reason is Refusal.FOREIGN_ROOT
    again = root(key=genuine.key)  # the same name and key, in another certificate
    with pytest.raises(RefusedEvidenceError) as caught:
        judged((again, leaf(again)), root=genuine)
    assert caught.value.reason is Refusal.FOREIGN_ROOT


def test_the_root_must_be_where_the_chain_starts() -> None:
    top, issuer, last = authority()
    with pytest.raises(RefusedEvidenceError) as caught:
        judged((issuer, last), root=top)
    assert caught.value.reason is Refusal.FOREIGN_ROOT


def no_issuer() -> Made:
    top = root()
    return top, leaf(certify("stranger"))


def wrong_name() -> Made:
    top = root()
    return top, leaf(top, claimed_issuer="another")


def wrong_key() -> Made:
    top = root()
    return top, leaf(root(), claimed_issuer="root")


def no_authority() -> Made:
    top = root()
    middle = certify("middle", top, ca=False, usages=("digital_signature", "key_cert_sign"))
    return top, middle, leaf(middle)


def no_constraints() -> Made:
    top = root()
    middle = certify("middle", top, constraints=False)
    return top, middle, leaf(middle)


def no_right_to_issue() -> Made:
    top = root()
    middle = certify("middle", top, usages=("digital_signature", "crl_sign"))
    return top, middle, leaf(middle)


def root_without_authority() -> Made:
    top = root(usages=("digital_signature",))
    return top, leaf(top)


def too_long() -> Made:
    top = root(path_length=0)
    middle = certify("middle", top)
    return top, middle, leaf(middle)


def too_long_below() -> Made:
    top = root()
    middle = certify("middle", top, path_length=0)
    low = certify("low", middle)
    return top, middle, low, leaf(low)


def leaf_is_an_authority() -> Made:
    top = root()
    return top, certify("leaf", top, usages=("digital_signature", "key_cert_sign"))


def leaf_may_not_sign() -> Made:
    top = root()
    return top, leaf(top, usages=("key_agreement",))


def out_of_order() -> Made:
    top = root()
    middle = certify("middle", top)
    low = certify("low", middle)
    return top, low, middle, leaf(low)


def leaf_as_issuer() -> Made:
    top = root()
    own = leaf(top)
    return top, own, leaf(own)


@pytest.mark.parametrize(
    "chain",
    [
        *(no_issuer, wrong_name, wrong_key, no_authority, no_constraints, no_right_to_issue),
        *(root_without_authority, too_long, too_long_below, leaf_is_an_authority),
        *(leaf_may_not_sign, out_of_order, leaf_as_issuer),
    ],
)
def test_a_chain_that_does_not_hold_is_refused(chain: Callable[[], Made]) -> None:
    assert refusal_of(chain()).reason is Refusal.CHAIN


def another_curve() -> Made:
    top = root()
    return top, leaf(top, key=ec.generate_private_key(ec.SECP256R1()))


def another_kind_of_key() -> Made:
    top = root()
    return top, leaf(top, key=rsa.generate_private_key(public_exponent=65537, key_size=2048))


def weak_hash() -> Made:
    top = root()
    return top, leaf(top, digest=SHA256())


def strong_hash_but_another() -> Made:
    top = root()
    return top, leaf(top, digest=SHA512())


def no_usage() -> Made:
    top = root()
    return top, leaf(top, usages=None)


def critical_extension() -> Made:
    top = root()
    names = x509.NameConstraints([x509.DNSName("example.org")], None)
    middle = certify("middle", top, extra=names)
    return top, middle, leaf(middle)


@pytest.mark.parametrize(
    "chain",
    [
        *(another_curve, another_kind_of_key, weak_hash, strong_hash_but_another, no_usage),
        critical_extension,
    ],
)
def test_a_certificate_of_another_kind_is_refused(chain: Callable[[], Made]) -> None:
    assert refusal_of(chain()).reason is Refusal.CERTIFICATE


@pytest.mark.parametrize("damage", [b"", b"\0", b"0\x82\x01\x00", bytes(1024)])
def test_what_is_no_certificate_is_refused(damage: bytes) -> None:
    top = root()
    with pytest.raises(RefusedEvidenceError) as caught:
        verify_chain([top.der], damage, [top.root])
    assert caught.value.reason is Refusal.CERTIFICATE
    assert summaries([damage]) == ()


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_every_damaged_bit_of_a_certificate_is_noticed() -> None:
    # Among them are some that make two extensions the same, which the library reports
    # late, and some that give the signature unused bits, which it does not mind.
    top = root()
    middle = certify("middle", top)
    last = leaf(middle)
    for place in range(len(middle.der)):
        for bit in range(8):
            damaged = bytearray(middle.der)
            damaged[place] ^= 1 << bit
            with pytest.raises(RefusedEvidenceError) as caught:
                verify_chain([top.der, bytes(damaged)], last.der, [top.root])
            assert caught.value.reason in {Refusal.CERTIFICATE, Refusal.CHAIN}


@pytest.mark.parametrize("which", range(3))
def test_every_certificate_must_be_valid_at_the_moment(which: int) -> None:
    begins, ends = [NOW - 10_000] * 3, [NOW + 10_000] * 3
    begins[which], ends[which] = NOW - 100, NOW + 100
    top = root(begin=begins[0], end=ends[0])
    middle = certify("middle", top, begin=begins[1], end=ends[1])
    held = judged((top, middle, leaf(middle, begin=begins[2], end=ends[2])))
    for now in (NOW - 100, NOW, NOW + 100):
        held.check_times(now, skew=0)
    held.check_times(NOW - 130, skew=30)
    for now, skew, reason in (
        (NOW - 101, 0, Refusal.NOT_YET_VALID),
        (NOW - 131, 30, Refusal.NOT_YET_VALID),
        (NOW + 101, 0, Refusal.EXPIRED),
        (NOW + 101, 3600, Refusal.EXPIRED),  # a clock that is behind has not seen the end
    ):
        with pytest.raises(RefusedEvidenceError) as caught:
            held.check_times(now, skew=skew)
        assert caught.value.reason is reason


def test_a_genuine_intermediate_cannot_stand_in_for_a_leaf() -> None:
    payload = cbor2.loads(cbor2.loads(document_of(entries("genuine-aws")[0]))[2])
    bundle = payload["cabundle"]
    verify_chain(bundle, payload["certificate"], [nitro_root()])
    with pytest.raises(RefusedEvidenceError) as caught:
        verify_chain(bundle[:-1], bundle[-1], [nitro_root()])
    assert caught.value.reason is Refusal.CHAIN
    with pytest.raises(RefusedEvidenceError) as caught:
        verify_chain([bundle[0], *bundle[2:]], payload["certificate"], [nitro_root()])
    assert caught.value.reason is Refusal.CHAIN


def test_a_summary_is_readable() -> None:
    (summary,) = summaries([nitro_root().der])
    assert str(summary) == (
        "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US, 2019-10-28T13:28:05Z to 2049-10-28T14:28:05Z"
    )
    assert summary.not_before == datetime(2019, 10, 28, 13, 28, 5, tzinfo=UTC).timestamp()


def test_names_cannot_write_into_the_log() -> None:
    top = certify("two\nlines\x1b[2J")
    (summary,) = summaries([top.der])
    assert summary.subject.isprintable()
