"""Payments on a chain: whoever wants what is not theirs, and what the contract says to it."""

from collections.abc import Iterator

import pytest

from chains import ETHER, Chain, account, in_process
from tacit.errors import InputError
from tacit.ledger.chain.contracts import NAMES, compiled, contract
from tacit.ledger.chain.node import Node, Reverted, WrongChain
from tacit.ledger.chain.settlement import Said, Settlement, result

NAMED = ["a", "b", "c", "d"]
A, B, C, D = (account(name) for name in NAMED)
KEEPER, STRANGER = account("keeper"), account("stranger")
STAKE, POT, HOUR, DAY = ETHER // 10, 1000, 3600, 86400
ROOT = b"r" * 32
GENESIS = b"the first entry"
PART = {each.address: bytes([i + 1]) * 32 for i, each in enumerate((A, B, C, D))}


def agreed(node: Node, members: dict[str, str]) -> Settlement:
    receipt = Settlement.deploy(node, KEEPER, members, STAKE, GENESIS)
    return Settlement(node, receipt["contractAddress"], members, GENESIS)


def shares(*payouts: int) -> dict[str, int]:
    return dict(zip(NAMED, payouts, strict=False))


@pytest.fixture(scope="module")
def begun() -> tuple[Chain, Settlement]:
    """A federation of four, whose quorum is 2 * 4 // 3 + 1 = 3; all have registered."""
    chain = in_process()
    chain.fund(*NAMED, "keeper", "stranger")
    node = chain.node()
    found = agreed(node, dict(zip(NAMED, (each.address for each in (A, B, C, D)), strict=True)))
    for each in (A, B, C, D):
        found.register(each)
    return chain, found


@pytest.fixture
def chain(begun: tuple[Chain, Settlement]) -> Iterator[Chain]:
    """As it was then, for each test."""
    then = begun[0].ask("evm_snapshot")
    yield begun[0]
    begun[0].ask("evm_revert", then)


@pytest.fixture
def settlement(begun: tuple[Chain, Settlement], chain: Chain) -> Settlement:
    return begun[1]


def now(settlement: Settlement) -> int:
    return settlement.node.web3.eth.get_block("latest")["timestamp"]


def later(chain: Chain, settlement: Settlement, seconds: int) -> None:
    chain.provider.ethereum_tester.time_travel(now(settlement) + seconds)  # type: ignore[attr-defined]
    chain.mine()


def opened(settlement: Settlement, *by: object, number: int = 0, pot: int = POT) -> None:
    settlement.open(KEEPER, number, pot, now(settlement) + HOUR)
    for each in by:
        settlement.commit(each, number, PART[each.address])  # type: ignore[arg-type, attr-defined]


def attested(settlement: Settlement, payouts: dict[str, int], *by: object, number: int = 0) -> None:
    digest = result(ROOT, payouts)
    settlement.post(KEEPER, number, digest)
    for each in by:
        settlement.attest(each, number, digest)  # type: ignore[arg-type]


def held(settlement: Settlement) -> int:
    return settlement.node.web3.eth.get_balance(settlement.address)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_contract_is_what_the_compiler_makes_of_its_source(name: str) -> None:
    """Else: python -m tacit.ledger.chain.contracts."""
    assert contract(name) == compiled(name)


def test_a_round_pays_what_a_quorum_attested_and_keeps_the_rest_for_the_next(
    settlement: Settlement,
) -> None:
    opened(settlement, A, B, C)
    attested(settlement, shares(500, 300, 100, 0), A, B, D)
    settlement.score(STRANGER, 0, ROOT, shares(500, 300, 100, 0))
    assert [settlement.balance(each.address) for each in (A, B, C, D)] == [500, 300, 100, 0]
    for each in (A, B, C):
        settlement.withdraw(each)
    assert held(settlement) == 4 * STAKE + POT - 900
    opened(settlement, number=1, pot=7)
    assert settlement.round(1).pot == 7 + 100
    assert settlement.round(0).deadline == 0
    assert (settlement.quorum, settlement.opened()) == (3, 2)


def test_nobody_withdraws_twice(settlement: Settlement) -> None:
    opened(settlement, A)
    attested(settlement, shares(POT, 0, 0, 0), A, B, C)
    settlement.score(KEEPER, 0, ROOT, shares(POT, 0, 0, 0))
    settlement.withdraw(A)
    with pytest.raises(Reverted, match="nothing is owed"):
        settlement.withdraw(A)
    with pytest.raises(Reverted, match="the round is not open"):
        settlement.score(KEEPER, 0, ROOT, shares(POT, 0, 0, 0))


# A member that is a contract, and calls withdraw again while it is being paid.
THIEF = """
# pragma version 0.4.3
interface Settlement:
    def register(): payable
    def commit(round: uint256, commitment: bytes32): nonpayable
    def attest(round: uint256, result: bytes32): nonpayable
    def withdraw(): nonpayable

target: Settlement
taken: public(uint256)
again: public(bool)

@deploy
@payable
def __init__():
    pass

@external
def join(target: address, stake: uint256):
    self.target = Settlement(target)
    extcall self.target.register(value=stake)

@external
def commit(round: uint256):
    extcall self.target.commit(round, keccak256("part"))

@external
def attest(round: uint256, result: bytes32):
    extcall self.target.attest(round, result)

@external
def steal(again: bool):
    self.again = again
    extcall self.target.withdraw()

@external
@payable
def __default__():
    self.taken += msg.value
    if self.again:
        self.again = False
        # Its failure is swallowed, so that the first payment stands.
        done: bool = raw_call(msg.sender, method_id("withdraw()"), revert_on_failure=False)
"""


def test_a_member_that_withdraws_again_while_it_is_paid_gets_what_it_is_owed_and_no_more(
    chain: Chain,
) -> None:
    from vyper import compile_code

    made, node = compile_code(THIEF, output_formats=["abi", "bytecode"]), chain.node()
    factory = chain.web3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
    thief = node.send(STRANGER, factory.constructor(), STAKE)["contractAddress"]
    settlement = agreed(node, {"a": thief, "b": A.address, "c": B.address})
    calls = chain.web3.eth.contract(thief, abi=made["abi"]).functions
    node.send(STRANGER, calls.join(settlement.address, STAKE))
    for each in (A, B):
        settlement.register(each)
    opened(settlement)
    node.send(STRANGER, calls.commit(0))
    digest = result(ROOT, shares(POT, 0, 0))
    settlement.post(KEEPER, 0, digest)
    for each in (A, B):
        settlement.attest(each, 0, digest)
    node.send(STRANGER, calls.attest(0, digest))
    settlement.score(KEEPER, 0, ROOT, shares(POT, 0, 0))
    node.send(STRANGER, calls.steal(True))
    assert not calls.again().call()  # it tried
    assert calls.taken().call() == POT
    assert held(settlement) == 3 * STAKE


def test_a_stranger_cannot_take_part(settlement: Settlement) -> None:
    opened(settlement)
    for attempt in (
        lambda: settlement.register(STRANGER),
        lambda: settlement.commit(STRANGER, 0, b"x" * 32),
        lambda: settlement.attest(STRANGER, 0, b"x" * 32),
        lambda: settlement.leave(STRANGER),
        lambda: settlement.reclaim(STRANGER),
    ):
        with pytest.raises(Reverted, match="not a member"):
            attempt()
    with pytest.raises(Reverted, match="only the keeper opens"):
        settlement.open(A, 1, 0, now(settlement) + HOUR)
    with pytest.raises(Reverted, match="only the keeper posts"):
        settlement.post(A, 0, b"x" * 32)
    with pytest.raises(Reverted, match="nothing is owed"):
        settlement.withdraw(STRANGER)


def test_no_score_without_a_quorum_and_none_but_the_attested_one(settlement: Settlement) -> None:
    opened(settlement, A, B)
    attested(settlement, shares(600, 400, 0, 0), A, B)
    with pytest.raises(Reverted, match="attested already"):
        settlement.attest(B, 0, result(ROOT, shares(600, 400, 0, 0)))
    with pytest.raises(Reverted, match="fewer than the quorum"):
        settlement.score(KEEPER, 0, ROOT, shares(600, 400, 0, 0))
    with pytest.raises(Reverted, match="another result"):
        settlement.attest(C, 0, result(ROOT, shares(0, 1000, 0, 0)))
    settlement.attest(C, 0, result(ROOT, shares(600, 400, 0, 0)))
    with pytest.raises(Reverted, match="not what was attested"):
        settlement.score(KEEPER, 0, ROOT, shares(1000, 0, 0, 0))
    with pytest.raises(Reverted, match="not what was attested"):
        settlement.score(KEEPER, 0, b"s" * 32, shares(600, 400, 0, 0))
    with pytest.raises(Reverted, match="posted already"):
        settlement.post(KEEPER, 0, result(ROOT, shares(0, 1000, 0, 0)))


@pytest.mark.parametrize(
    ("payouts", "why"),
    [
        ([POT, 1, 0, 0], "more than the pot"),
        ([POT, 2**256 - 1, 0, 0], "the contract refuses"),  # the sum wraps round
        ([500, 500], "one payout for each member"),
    ],
)
def test_even_a_quorum_cannot_pay_what_is_not_there(
    settlement: Settlement, payouts: list[int], why: str
) -> None:
    opened(settlement, A, B)
    attested(settlement, shares(*payouts), A, B, C)
    with pytest.raises(Reverted, match=why):
        settlement.score(KEEPER, 0, ROOT, shares(*payouts))


def test_who_has_not_committed_is_not_paid_and_holds_up_nobody(settlement: Settlement) -> None:
    opened(settlement, A)
    attested(settlement, shares(600, 0, 0, 400), A, B, C)
    settlement.score(KEEPER, 0, ROOT, shares(600, 0, 0, 400))
    assert [settlement.balance(each.address) for each in (A, D)] == [600, 0]
    opened(settlement, number=1, pot=0)
    assert settlement.round(1).pot == 400


def test_stale_rounds_take_nothing(chain: Chain, settlement: Settlement) -> None:
    with pytest.raises(Reverted, match="the round is not open"):
        settlement.commit(A, 0, PART[A.address])
    opened(settlement, A)
    with pytest.raises(Reverted, match="committed already"):
        settlement.commit(A, 0, b"x" * 32)
    with pytest.raises(Reverted, match="another round is next"):
        settlement.open(KEEPER, 0, POT, now(settlement) + HOUR)
    with pytest.raises(Reverted, match="the round before is not over"):
        settlement.open(KEEPER, 1, POT, now(settlement) + HOUR)
    with pytest.raises(Reverted, match="the deadline is to come"):
        settlement.cancel(STRANGER, 0)
    attested(settlement, shares(POT, 0, 0, 0), A, B, C)
    with pytest.raises(Reverted, match="posted already"):
        settlement.commit(B, 0, PART[B.address])
    later(chain, settlement, HOUR)
    for attempt in (
        lambda: settlement.commit(B, 0, PART[B.address]),
        lambda: settlement.attest(D, 0, result(ROOT, shares(POT, 0, 0, 0))),
        lambda: settlement.score(KEEPER, 0, ROOT, shares(POT, 0, 0, 0)),
    ):
        with pytest.raises(Reverted, match="the round is not open"):
            attempt()
    settlement.cancel(STRANGER, 0)
    assert settlement.balance(KEEPER.address) == POT
    with pytest.raises(Reverted, match="no such round is open"):
        settlement.cancel(STRANGER, 0)


def test_a_cancelled_round_can_be_opened_again_and_nothing_of_it_but_commitments_stays(
    chain: Chain, settlement: Settlement
) -> None:
    opened(settlement, A)
    attested(settlement, shares(POT, 0, 0, 0), A, B, C)
    later(chain, settlement, HOUR)
    settlement.cancel(A, 0)
    opened(settlement, B, pot=2 * POT)
    with pytest.raises(Reverted, match="committed already"):
        settlement.commit(A, 0, b"x" * 32)
    with pytest.raises(Reverted, match="fewer than the quorum"):
        settlement.score(KEEPER, 0, ROOT, shares(POT, 0, 0, 0))
    attested(settlement, shares(POT, POT, 0, 0), A, B, C)
    settlement.score(KEEPER, 0, ROOT, shares(POT, POT, 0, 0))
    balances = [settlement.balance(each.address) for each in (KEEPER, A, B)]
    assert balances == [POT] * 3
    assert held(settlement) == 4 * STAKE + 3 * POT


def test_deadlines_are_to_come_and_near(settlement: Settlement) -> None:
    with pytest.raises(Reverted, match="the deadline is past"):
        settlement.open(KEEPER, 0, POT, now(settlement))
    with pytest.raises(Reverted, match="the deadline is too far"):
        settlement.open(KEEPER, 0, POT, now(settlement) + 31 * DAY)


def test_two_commitments_for_one_round_cost_the_stake_and_the_seat(settlement: Settlement) -> None:
    opened(settlement, A, B, C)
    attested(settlement, shares(400, 300, 300, 0), A, B, C)
    one, two = (settlement.said(A, 0, word * 32) for word in (b"1", b"2"))
    settlement.slash(STRANGER, "a", 0, one, two)
    for attempt in (
        lambda: settlement.slash(STRANGER, "a", 0, one, two),
        lambda: settlement.register(A),
        lambda: settlement.leave(A),
    ):
        with pytest.raises(Reverted, match="not a member"):
            attempt()
    # Its payout of this round stays with its stake, for the next pot.
    settlement.score(KEEPER, 0, ROOT, shares(400, 300, 300, 0))
    assert settlement.balance(A.address) == 0
    opened(settlement, number=1, pot=0)
    assert settlement.round(1).pot == STAKE + 400


def test_a_commitment_on_the_chain_conflicts_with_a_signed_one(settlement: Settlement) -> None:
    opened(settlement, A)
    settlement.slash(B, "a", 0, Said(PART[A.address]), settlement.said(A, 0, b"2" * 32))
    with pytest.raises(Reverted, match="not a member"):
        settlement.commit(A, 0, b"3" * 32)


def test_nobody_is_slashed_for_what_does_not_conflict(chain: Chain, settlement: Settlement) -> None:
    opened(settlement, A, B)
    said = settlement.said
    other = agreed(chain.node(), {"a": A.address, "b": B.address})
    mine, cut = said(A, 0, b"1" * 32), said(A, 0, b"2" * 32)
    for first, second in (
        (mine, mine),  # the same twice
        (mine, said(A, 1, b"2" * 32)),  # of another round
        (mine, said(B, 0, b"2" * 32)),  # of another member
        (mine, other.said(A, 0, b"2" * 32)),  # for another contract
        (mine, Said(b"2" * 32)),  # not on the chain, and not signed
        (mine, Said(b"2" * 32, cut.signature[:64])),
        (mine, Said(b"2" * 32, bytes(65))),  # ecrecover finds nobody
        (mine, Said(b"3" * 32, cut.signature)),
        (Said(bytes(32)), Said(PART[A.address])),  # none, and the one it made
    ):
        with pytest.raises(Reverted, match=r"do not conflict|is not the member's"):
            settlement.slash(STRANGER, "a", 0, first, second)
    # D has made none here: that is no commitment to zero.
    with pytest.raises(Reverted, match="the first is not the member's"):
        settlement.slash(STRANGER, "d", 0, Said(bytes(32)), said(D, 0, b"1" * 32))


def test_the_stake_is_exact_and_once(settlement: Settlement, chain: Chain) -> None:
    with pytest.raises(Reverted, match="the stake is here already"):
        settlement.register(A)
    other = agreed(chain.node(), {"a": A.address})
    for wrong in (0, STAKE - 1, STAKE + 1, 9 * ETHER):
        other.stake = wrong
        with pytest.raises(Reverted, match="the stake is another amount"):
            other.register(A)


def test_a_stake_comes_back_after_its_hold_and_can_be_lost_until_then(
    chain: Chain, settlement: Settlement
) -> None:
    opened(settlement, A)
    with pytest.raises(Reverted, match="ask with leave first"):
        settlement.reclaim(A)
    for each in (A, B):
        settlement.leave(each)
    with pytest.raises(Reverted, match="asked already"):
        settlement.leave(A)
    with pytest.raises(Reverted, match="the member is leaving"):
        settlement.commit(B, 0, PART[B.address])
    later(chain, settlement, 7 * DAY)  # the hold counts from the deadline, an hour on
    with pytest.raises(Reverted, match="the hold is not over"):
        settlement.reclaim(A)
    settlement.slash(C, "b", 5, *(settlement.said(B, 5, word * 32) for word in (b"1", b"2")))
    later(chain, settlement, HOUR)
    settlement.reclaim(A)
    before = chain.web3.eth.get_balance(settlement.address)
    settlement.withdraw(A)
    assert before - chain.web3.eth.get_balance(settlement.address) == STAKE
    with pytest.raises(Reverted, match="no stake is here"):
        settlement.reclaim(A)
    with pytest.raises(Reverted, match="not a member"):
        settlement.reclaim(B)
    settlement.register(A)


def test_members_are_somebody_once(chain: Chain) -> None:
    twice, nobody = {"a": A.address, "b": A.address}, {"a": "0x" + "00" * 20}
    for members in (twice, nobody):
        with pytest.raises(Reverted, match="a member twice, or nobody"):
            agreed(chain.node(), members)
    with pytest.raises(InputError, match=r"'0x17' of a is no address"):
        agreed(chain.node(), {"a": "0x17"})
    for count in (0, 101):
        with pytest.raises(InputError, match=f"members: {count} was given; allowed is 1 to 100"):
            agreed(chain.node(), {str(i): A.address for i in range(count)})


def test_another_record_or_another_member_is_told_from_what_was_agreed(
    settlement: Settlement,
) -> None:
    node, address, members = settlement.node, settlement.address, dict(settlement.members)
    Settlement(node, address, members, GENESIS)
    swapped = members | {"a": B.address, "b": A.address}
    renamed = {"e" if name == "a" else name: each for name, each in members.items()}
    for others, genesis in ((members, b"another"), (swapped, GENESIS), (renamed, GENESIS)):
        with pytest.raises(WrongChain, match="made for another record, or for other members"):
            Settlement(node, address, others, genesis)


def test_coins_that_nobody_asked_for_are_sent_back(chain: Chain, settlement: Settlement) -> None:
    with pytest.raises(Exception, match="revert"):
        chain.web3.eth.send_transaction(
            {"from": chain.web3.eth.accounts[0], "to": settlement.address, "value": 1}
        )
