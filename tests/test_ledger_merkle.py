"""RFC 6962 trees: published vectors, and the definition by recursion."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.ledger.merkle import (
    EMPTY,
    consistency,
    consistent,
    included,
    inclusion,
    leaf_hash,
    node_hash,
    root,
)

# The test vectors of the Certificate Transparency project (merkletree/testdata, "ct-go").
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1, writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def reader(leaves: list[bytes]):  # type: ignore[no-untyped-def]
    return lambda level, index: mth(leaves[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    assert root(reader(LEAVES), size).hex() == ROOTS[size - 1]
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.integers(1, 70), st.data())
def test_proofs_hold_and_no_others_do(size: int, data: st.DataObject) -> None:
    leaves = [bytes([i]) for i in range(size)]
    read, top = reader(leaves), mth(leaves)
    assert root(read, size) == top
    index = data.draw(st.integers(0, size - 1))
    path = inclusion(read, index, size)
    leaf = leaf_hash(leaves[index])
    assert included(leaf, index, size, path, top)
    assert len(path) <= (size - 1).bit_length()
    other = data.draw(st.integers(0, size))
    assert included(leaf, other, size, path, top) == (other == index)
    assert not included(leaf_hash(b"x"), index, size, path, top)
    assert not included(leaf, index, size, [*path, top], top)
    if path:
        assert not included(leaf, index, size, path[:-1], top)
    old = data.draw(st.integers(0, size))
    before, proof = mth(leaves[:old]), consistency(read, old, size)
    assert consistent(old, before, size, top, proof)
    assert not consistent(old, bytes(32), size, top, proof)
    if 0 < old < size:
        assert not consistent(old, before, size, bytes(32), proof)
        assert not consistent(old, before, size, top, proof[:-1])
        assert not consistent(old, before, size, top, [*proof, top])
        forked = mth([*leaves[:old], *(b"forked" for _ in leaves[old:])])
        assert not consistent(old, before, size, forked, proof)


def test_a_path_by_hand() -> None:
    # Three leaves: ((a, b), c). The path of b is a, then c; from 2 leaves to 3 it is c alone.
    a, b, c = (leaf_hash(x) for x in (b"a", b"b", b"c"))
    read = reader([b"a", b"b", b"c"])
    assert inclusion(read, 1, 3) == [a, c]
    assert consistency(read, 2, 3) == [c]
    assert root(read, 3) == node_hash(node_hash(a, b), c)
