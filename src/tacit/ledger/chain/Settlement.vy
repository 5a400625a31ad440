# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Settlement
@notice Pays the members of a federation for rounds. A quorum of them says who gets what; nobody
        else decides, the keeper included. A stake is lost on one thing alone: two different
        commitments of one member for one round.
@dev A round goes open, commit, post, attest, score, then withdraw. Amounts are in wei.
"""

MOST_MEMBERS: constant(uint256) = 100
# How long a stake stays after its owner has asked for it, so that a proof can still arrive.
HOLD: constant(uint256) = 7 * 86400
LONGEST_ROUND: constant(uint256) = 30 * 86400
# In a round's word of attestations, above one bit for each member: how many there are.
COUNT: constant(uint256) = 128

# EIP-712
DOMAIN: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
NAME: constant(bytes32) = keccak256("Tacit settlement")
VERSION: constant(bytes32) = keccak256("1")
COMMITMENT: constant(bytes32) = keccak256("Commitment(uint256 round,bytes32 commitment)")

struct Round:
    pot: uint256
    deadline: uint256  # 0 before it is opened, and once it is paid or cancelled
    result: bytes32  # keccak256 of what ``score`` will say
    attested: uint256

event Opened:
    round: indexed(uint256)
    pot: uint256
    deadline: uint256

event Posted:
    round: indexed(uint256)
    result: bytes32

event Scored:
    round: indexed(uint256)
    root: bytes32

event Slashed:
    member: indexed(address)
    round: indexed(uint256)

keeper: public(immutable(address))
stake: public(immutable(uint256))
quorum: public(immutable(uint256))
# SHA-256 of what the members have agreed on: their record, and the names behind the addresses.
terms: public(immutable(bytes32))

members: DynArray[address, MOST_MEMBERS]
# Place in ``members``, from 1; 0 for a stranger, and for a member that was slashed.
places: public(HashMap[address, uint256])
# One bit for each member whose stake is here.
staked: public(uint256)
leaving: public(HashMap[address, uint256])
rounds: public(HashMap[uint256, Round])
opened: public(uint256)
commitments: public(HashMap[uint256, HashMap[address, bytes32]])
balances: public(HashMap[address, uint256])
# What nobody is owed, for the next pot.
surplus: public(uint256)


@deploy
def __init__(_members: DynArray[address, MOST_MEMBERS], _stake: uint256, _terms: bytes32):
    assert len(_members) > 0, "no members"
    for member: address in _members:
        assert member != empty(address) and self.places[member] == 0, "a member twice, or nobody"
        self.members.append(member)
        self.places[member] = len(self.members)
    keeper = msg.sender
    stake = _stake
    quorum = 2 * len(_members) // 3 + 1
    terms = _terms


@external
@payable
def register():
    """
    @notice Put down the stake, exactly.
    """
    bit: uint256 = self._bit(msg.sender)
    assert self.staked & bit == 0, "the stake is here already"
    assert msg.value == stake, "the stake is another amount"
    self.staked |= bit


@external
def leave():
    """
    @notice Ask for the stake. The member commits no more, and can reclaim after the hold.
    """
    assert self.staked & self._bit(msg.sender) != 0, "no stake is here"
    assert self.leaving[msg.sender] == 0, "asked already"
    since: uint256 = block.timestamp
    if self.opened > 0:
        since = max(since, self.rounds[self.opened - 1].deadline)
    self.leaving[msg.sender] = since + HOLD


@external
def reclaim():
    """
    @notice The stake becomes the member's balance.
    """
    bit: uint256 = self._bit(msg.sender)
    assert self.staked & bit != 0, "no stake is here"
    assert self.leaving[msg.sender] != 0, "ask with leave first"
    assert self.leaving[msg.sender] <= block.timestamp, "the hold is not over"
    self.leaving[msg.sender] = 0
    self.staked ^= bit
    self.balances[msg.sender] += stake


@external
@payable
def open(round: uint256, deadline: uint256):
    """
    @notice The next round begins; what is sent is its pot, with what was left over.
    """
    assert msg.sender == keeper, "only the keeper opens"
    assert round == self.opened, "another round is next"
    assert round == 0 or self.rounds[round - 1].deadline == 0, "the round before is not over"
    assert deadline > block.timestamp, "the deadline is past"
    assert deadline <= block.timestamp + LONGEST_ROUND, "the deadline is too far"
    pot: uint256 = msg.value
    if self.surplus > 0:
        pot += self.surplus
        self.surplus = 0
    self.opened = round + 1
    self.rounds[round].pot = pot
    self.rounds[round].deadline = deadline
    log Opened(round=round, pot=pot, deadline=deadline)


@external
def commit(round: uint256, commitment: bytes32):
    """
    @notice What the member has sent in this round, as its record says.
    """
    assert self.staked & self._bit(msg.sender) != 0, "no stake is here"
    assert self.leaving[msg.sender] == 0, "the member is leaving"
    self._require_open(round)
    assert self.rounds[round].result == empty(bytes32), "the result is posted already"
    assert commitment != empty(bytes32), "a commitment is not zero"
    assert self.commitments[round][msg.sender] == empty(bytes32), "committed already"
    self.commitments[round][msg.sender] = commitment


@external
def post(round: uint256, result: bytes32):
    """
    @notice keccak256 of the record's root and the payouts, for the members to look at.
    """
    assert msg.sender == keeper, "only the keeper posts"
    self._require_open(round)
    assert self.rounds[round].result == empty(bytes32), "the result is posted already"
    assert result != empty(bytes32), "a result is not zero"
    self.rounds[round].result = result
    log Posted(round=round, result=result)


@external
def attest(round: uint256, result: bytes32):
    """
    @notice The member has come to the same result.
    """
    bit: uint256 = self._bit(msg.sender)
    assert self.staked & bit != 0, "no stake is here"
    self._require_open(round)
    assert result != empty(bytes32) and self.rounds[round].result == result, "another result"
    attested: uint256 = self.rounds[round].attested
    assert attested & bit == 0, "attested already"
    self.rounds[round].attested = (attested | bit) + (1 << COUNT)


@external
def score(round: uint256, root: bytes32, payouts: DynArray[uint256, MOST_MEMBERS]):
    """
    @notice Credit what a quorum has attested to those who committed. Anyone may call it.
    @param root Of the record that the payouts were reckoned from.
    @param payouts One for each member, in their order.
    """
    self._require_open(round)
    assert self.rounds[round].attested >> COUNT >= quorum, "fewer than the quorum attested"
    result: bytes32 = keccak256(abi_encode(root, payouts))
    assert result == self.rounds[round].result, "not what was attested"
    assert len(payouts) == len(self.members), "one payout for each member"
    total: uint256 = 0
    paid: uint256 = 0
    place: uint256 = 0
    staked: uint256 = self.staked
    for payout: uint256 in payouts:
        if payout > 0:
            total += payout
            member: address = self.members[place]
            # Not one that was slashed since, nor one that could hold up all by committing to nothing.
            earned: bool = self.commitments[round][member] != empty(bytes32)
            if earned and staked & (1 << place) != 0:
                paid += payout
                self.balances[member] += payout
        place += 1
    pot: uint256 = self.rounds[round].pot
    assert total <= pot, "more than the pot"
    if paid < pot:
        self.surplus += pot - paid
    self.rounds[round].pot = 0
    self.rounds[round].deadline = 0
    log Scored(round=round, root=root)


@external
def cancel(round: uint256):
    """
    @notice A round that came to no result until its deadline; its pot goes back to the keeper. It
            can be opened again, and what was committed stands.
    """
    deadline: uint256 = self.rounds[round].deadline
    assert deadline != 0, "no such round is open"
    assert deadline <= block.timestamp, "the deadline is to come"
    self.balances[keeper] += self.rounds[round].pot
    self.rounds[round] = empty(Round)
    self.opened = round


@external
def slash(
    member: address,
    round: uint256,
    first: bytes32,
    first_signature: Bytes[65],
    second: bytes32,
    second_signature: Bytes[65],
):
    """
    @notice Two different commitments of a member for one round: its stake goes to the next pot,
            and it is no member any more.
    @dev A commitment that the member made here needs no signature.
    """
    bit: uint256 = self._bit(member)
    assert self.staked & bit != 0, "no stake is here"
    assert first != second, "they do not conflict"
    assert self._said(member, round, first, first_signature), "the first is not the member's"
    assert self._said(member, round, second, second_signature), "the second is not the member's"
    self.staked ^= bit
    self.places[member] = 0
    self.leaving[member] = 0
    self.surplus += stake
    log Slashed(member=member, round=round)


@external
@nonreentrant
def withdraw():
    """
    @notice Send the caller what it is owed.
    """
    amount: uint256 = self.balances[msg.sender]
    assert amount > 0, "nothing is owed"
    self.balances[msg.sender] = 0
    raw_call(msg.sender, b"", value=amount)


@view
@external
def everyone() -> DynArray[address, MOST_MEMBERS]:
    """
    @notice The members, in the order of payouts.
    """
    return self.members


@view
@internal
def _bit(member: address) -> uint256:
    place: uint256 = self.places[member]
    assert place != 0, "not a member"
    return 1 << (place - 1)


@view
@internal
def _require_open(round: uint256):
    assert block.timestamp < self.rounds[round].deadline, "the round is not open"


@view
@internal
def _said(member: address, round: uint256, commitment: bytes32, signature: Bytes[65]) -> bool:
    if len(signature) != 65:
        return commitment != empty(bytes32) and self.commitments[round][member] == commitment
    domain: bytes32 = keccak256(abi_encode(DOMAIN, NAME, VERSION, chain.id, self))
    said: bytes32 = keccak256(abi_encode(COMMITMENT, round, commitment))
    signed: bytes32 = keccak256(concat(b"\x19\x01", domain, said))
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    r: uint256 = extract32(signature, 0, output_type=uint256)
    s: uint256 = extract32(signature, 32, output_type=uint256)
    return ecrecover(signed, v, r, s) == member  # a member is never the zero address
