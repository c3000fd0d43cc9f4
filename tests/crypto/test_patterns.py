"""Protocol names and what modifiers make of a pattern."""

from __future__ import annotations

import pytest

from transport.crypto.patterns import Protocol
from transport.errors import UsageError


def messages(name: str) -> list[str]:
    return [" ".join(tokens) for tokens in Protocol.parse(name).pattern.messages]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Noise_NN_25519_AESGCM_SHA512", ["e", "e ee"]),
        ("Noise_NNpsk0_25519_AESGCM_SHA512", ["psk e", "e ee"]),
        ("Noise_XXpsk1_25519_AESGCM_SHA512", ["e psk", "e ee s es", "s se"]),
        ("Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s", ["e", "e ee s es", "s se psk"]),
        (
            "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA512",
            ["e e1", "e ee ekem1 s es", "s se"],
        ),
        (
            "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512",
            ["e e1", "e ee ekem1 s es", "s se psk"],
        ),
        (
            "Noise_NNpsk0+hfs_25519+MLKEM768_AESGCM_SHA512",
            ["psk e e1", "e ee ekem1"],
        ),
    ],
)
def test_modifiers_add_their_tokens(name: str, expected: list[str]) -> None:
    assert messages(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Noise_XX_25519_AESGCM",
        "Noise_XX_25519_AESGCM_SHA512 ",
        "Noise_XX_25519_AESGCM_SHA512_more",
        "Noise_XX_25519_AESGCM_SHA512\n",
        "Noise_ZZ_25519_AESGCM_SHA512",
        "Noise_XX_448_AESGCM_SHA512",
        "Noise_XX_25519_DES_SHA512",
        "Noise_XX_25519_AESGCM_MD5",
        "Noise_XXpsk4_25519_AESGCM_SHA512",
        "Noise_XXpsk0+psk3_25519_AESGCM_SHA512",
        "Noise_XXfallback_25519_AESGCM_SHA512",
        "Noise_XXhfs_25519_AESGCM_SHA512",  # the pattern is hybrid, the algorithms are not
        "Noise_XX_25519+MLKEM768_AESGCM_SHA512",  # and the other way round
        "Noise_XXhfs_25519+ML-KEM-768_AESGCM_SHA512",
        "Noise_XXhfs+hfs_25519+MLKEM768_AESGCM_SHA512",
        "Noise_IKhfs_25519+MLKEM768_AESGCM_SHA512",
        "Noise_" + "X" * 300 + "_25519_AESGCM_SHA512",
    ],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Protocol.parse(name)


def test_a_name_of_a_link_parses_into_its_algorithms() -> None:
    protocol = Protocol.parse("Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512")
    assert (protocol.cipher.name, protocol.hash.name) == ("AESGCM", "SHA512")
    assert protocol.psk
    assert protocol.hfs
