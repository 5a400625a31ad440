"""The keystream, by published vectors."""

import numpy as np
import pytest

from tacit.protection import keystream

# NIST SP 800-38A, F.5.1 and F.5.5: counter, plaintext, then key and ciphertext; two blocks.
COUNTER = 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF
PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
CASES = [
    (
        "2b7e151628aed2a6abf7158809cf4f3c",
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
    ),
    (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
    ),
]


@pytest.mark.parametrize(("key", "cipher"), CASES)
@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_words_are_what_nist_encrypts_with(key: str, cipher: str, dtype: str) -> None:
    expected = np.frombuffer(bytes.fromhex(cipher), dtype) ^ np.frombuffer(PLAIN, dtype)
    stream = keystream.start(bytes.fromhex(key), COUNTER)
    first, rest = (keystream.words(stream, n, dtype) for n in (1, len(expected) - 1))
    assert first.dtype == dtype
    assert [*first, *rest] == list(expected)


def test_a_stream_starts_at_any_block() -> None:
    whole = keystream.words(keystream.start(bytes(16)), 12, "<u8")
    later = keystream.words(keystream.start(bytes(16), block=4), 4, "<u8")
    assert (later == whole[8:]).all()
