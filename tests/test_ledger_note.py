"""Notes, checkpoints and cosignatures: C2SP's examples, and what must not pass."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tacit.errors import InputError, MessageError
from tacit.ledger.note import (
    COSIGNATURE,
    COSIGNATURE_ML_DSA,
    NOTE,
    Checkpoint,
    Key,
    Signature,
    cosign,
    private_key,
    sign,
    split,
    verified,
)

# The example of https://c2sp.org/signed-note.
KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SIGNED = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    "\n"
)
# The example of https://c2sp.org/tlog-cosignature; its keys are not published, its form is.
COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501


def test_the_published_note() -> None:
    key = Key.from_text(KEY)
    text, (signature,) = split(SIGNED)
    assert (key.name, key.kind, str(key)) == ("example.com/foo", NOTE, KEY)
    assert text == "This is an example message.\n"
    assert signature.of(key)
    assert key.verifies(text.encode(), signature.raw)
    assert not key.verifies(text.replace("an", "no").encode(), signature.raw)
    assert f"{text}\n{signature}" == SIGNED


def test_the_published_checkpoint() -> None:
    text, (log, witness) = split(COSIGNED)
    checkpoint = Checkpoint.from_text(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text == text
    assert len(log.raw) == 64
    # "time 1679315147" in the specification's text of the signed message.
    assert int.from_bytes(witness.raw[:8]) == 1679315147
    assert len(witness.raw) == 8 + 64


@pytest.mark.parametrize("kind", [COSIGNATURE, COSIGNATURE_ML_DSA])
def test_a_witness_signs_one_checkpoint(kind: int) -> None:
    log, witness = Ed25519PrivateKey.generate(), private_key(kind)
    keys = [Key.of("hearts", log, NOTE), Key.of("zurich", witness, kind)]
    head = Checkpoint("hearts", 3, bytes(range(32)))
    lines = [sign(head.text, keys[0], log), cosign(head, keys[1], witness, 1_700_000_000)]
    note = f"{head.text}\n{lines[0]}{lines[1]}"
    assert verified(note, keys) == (head, keys)
    stranger = Key.of("zurich", private_key(kind), kind)
    assert verified(note, [stranger]) == (head, [])
    for other in (Checkpoint("hearts", 4, head.root), Checkpoint("hearts", 3, bytes(32))):
        with pytest.raises(MessageError, match="the signature of hearts"):
            verified(f"{other.text}\n{lines[0]}{lines[1]}", keys)
        with pytest.raises(MessageError, match="the signature of zurich"):
            verified(f"{other.text}\n{lines[1]}", keys)
    later = Signature(lines[1].name, lines[1].id, bytes(8) + lines[1].raw[8:])
    with pytest.raises(MessageError, match="the signature of zurich"):
        verified(f"{head.text}\n{later}", keys)


def test_ml_dsa_cosignatures_sign_the_published_structure() -> None:
    private = private_key(COSIGNATURE_ML_DSA)
    key = Key.of("w", private, COSIGNATURE_ML_DSA)
    line = cosign(Checkpoint("log", 258, bytes(range(32))), key, private, 1)
    # struct cosigned_message of the specification, byte for byte.
    message = bytes.fromhex(
        "737562747265652f76310a00" "01" "77" "0000000000000001" "03" "6c6f67"
        "0000000000000000" "0000000000000102"
    ) + bytes(range(32))  # fmt: skip
    assert len(line.raw) == 8 + 2420
    private.public_key().verify(line.raw[8:], message)


@pytest.mark.parametrize(
    "note",
    [
        "", "text\n", "text\n\n", "text\n\n— a AAAA\n", "text\n\n— a b AAAAAAA=\n",
        "text\n\n- a AAAAAAAA\n", "te\tt\n\n— a AAAAAAAA\n", "text\n\n— a AAAAAAAA",
        "text\n\n— a+b AAAAAAAA\n", "x" * 2**20 + "\n\n— a AAAAAAAA\n",
    ],
)  # fmt: skip
def test_what_is_no_note(note: str) -> None:
    with pytest.raises(MessageError):
        split(note)


@pytest.mark.parametrize(
    "text",
    ["", "a\n1\n", "a\n01\nAAAA\n", "a\n-1\nAAAA\n", "a\n1\nAAAA\n", "\n1\n" + "A" * 43 + "=\n",
     "a\n1\n" + "A" * 43 + "=\nmore\n", "a\n" + "9" * 5000 + "\n" + "A" * 43 + "=\n"],
)  # fmt: skip
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(MessageError):
        Checkpoint.from_text(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a+b", "a+00000000+AAAA", KEY.replace("530d", "530e"), KEY[:-4], "a b" + KEY]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(InputError):
        Key.from_text(text)
