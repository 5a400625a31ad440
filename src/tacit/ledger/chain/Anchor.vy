# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Anchor
@notice The heads of one transparency log, kept where its keeper can neither change nor take back
        what it said. Whoever deploys the contract is the keeper.
"""

event Anchored:
    size: indexed(uint64)
    root: bytes32

keeper: public(immutable(address))
# SHA-256 of the log's name.
origin: public(immutable(bytes32))
# Entries under the newest head.
size: public(uint64)
# By the number of entries under them.
roots: public(HashMap[uint64, bytes32])


@deploy
def __init__(_origin: bytes32):
    keeper = msg.sender
    origin = _origin


@external
def anchor(size: uint64, root: bytes32):
    """
    @notice A head. Heads only grow, and each size has one root for ever.
    """
    assert msg.sender == keeper, "only the keeper anchors"
    assert size > self.size, "a head of as many entries, or more, is anchored already"
    self.size = size
    self.roots[size] = root
    log Anchored(size=size, root=root)
