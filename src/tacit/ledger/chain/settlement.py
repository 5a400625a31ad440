"""Payments for rounds on a chain: a quorum of the members says who gets what.

``Settlement.vy`` is the contract. A round is opened with a pot; members commit to what they sent;
the keeper posts the digest of the payouts; each member reckons them from the record, and attests;
with a quorum of attestations they are credited, and everybody withdraws. A stake is lost on two
different commitments by one member for one round, and on nothing else: a low score proves nothing.

The EVM has no Ed25519, so that members sign here with keys of their own, whose addresses their
federation has agreed on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from eth_abi import encode
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.types import TxReceipt

from tacit.ledger.chain.contracts import contract
from tacit.ledger.chain.node import Node


class Said(NamedTuple):
    """A member's commitment for a round, and its signature; none for one made on the chain."""

    commitment: bytes
    signature: bytes = b""


class Round(NamedTuple):
    """A round, as the contract has it.

    Attributes:
        pot: in wei.
        deadline: seconds since 1970; 0 where it is not opened yet, paid or cancelled.
        result: what was posted; zeros before.
        attested: how many members have attested it.
    """

    pot: int
    deadline: int
    result: bytes
    attested: int


def result(root: bytes, payouts: Sequence[int]) -> bytes:
    """keccak256 of the record's root and the payouts, one for each member, as the ABI encodes them.

    Args:
        root: 32 bytes, of the record that the payouts were reckoned from.
        payouts: in wei, in the contract's order of members.
    """
    return bytes(Web3.keccak(encode(["bytes32", "uint256[]"], [root, list(payouts)])))


class Settlement:
    """The contract of one federation.

    Args:
        node: of its chain.
        address: of the contract.

    Every step raises ChainError as in ``Node.send``; Reverted says which rule forbids it.
    """

    def __init__(self, node: Node, address: str) -> None:
        self.node, self.address = node, Web3.to_checksum_address(address)
        self._contract = node.contract(contract("Settlement"), address)
        self._call: Any = self._contract.functions
        with node.asked():
            self.stake: int = self._call.stake().call()
            self.quorum: int = self._call.quorum().call()
            self.genesis: bytes = self._call.genesis().call()

    @classmethod
    def deploy(
        cls, node: Node, keeper: LocalAccount, members: Sequence[str], stake: int, genesis: bytes
    ) -> TxReceipt:
        """Put a contract on the chain; who deploys it opens its rounds, and posts their results.

        Args:
            members: their addresses, at most 100.
            stake: of each, in wei.
            genesis: digest of the first entry of the members' record.
        """
        made = contract("Settlement")
        factory: Any = node.web3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
        return node.send(keeper, factory.constructor(list(members), stake, genesis))

    def members(self) -> list[str]:
        """Their addresses, in the order of payouts."""
        with self.node.asked():
            return list(self._call.everyone().call())

    def round(self, number: int) -> Round:
        """How far a round is."""
        with self.node.asked():
            pot, deadline, posted, attested = self._call.rounds(number).call()
        return Round(pot, deadline, posted, attested >> 128)

    def opened(self) -> int:
        """How many rounds were opened; the number of the next."""
        with self.node.asked():
            return int(self._call.opened().call())

    def balance(self, address: str) -> int:
        """What somebody can withdraw, in wei."""
        with self.node.asked():
            return int(self._call.balances(address).call())

    def register(self, member: LocalAccount) -> TxReceipt:
        """Put down the stake."""
        return self.node.send(member, self._call.register(), self.stake)

    def leave(self, member: LocalAccount) -> TxReceipt:
        """Ask for the stake, which is free seven days after the open round's deadline."""
        return self.node.send(member, self._call.leave())

    def reclaim(self, member: LocalAccount) -> TxReceipt:
        """Have the stake credited."""
        return self.node.send(member, self._call.reclaim())

    def open(self, keeper: LocalAccount, number: int, pot: int, deadline: int) -> TxReceipt:
        """Open the next round, with a pot in wei, until a time in seconds since 1970."""
        return self.node.send(keeper, self._call.open(number, deadline), pot)

    def commit(self, member: LocalAccount, number: int, commitment: bytes) -> TxReceipt:
        """Say what the member has sent in the round, as its contribution's record does."""
        return self.node.send(member, self._call.commit(number, commitment))

    def post(self, keeper: LocalAccount, number: int, digest: bytes) -> TxReceipt:
        """Say what was reckoned: its ``result``."""
        return self.node.send(keeper, self._call.post(number, digest))

    def attest(self, member: LocalAccount, number: int, digest: bytes) -> TxReceipt:
        """Say that the member has reckoned the same."""
        return self.node.send(member, self._call.attest(number, digest))

    def score(
        self, anyone: LocalAccount, number: int, root: bytes, payouts: Sequence[int]
    ) -> TxReceipt:
        """Credit what a quorum has attested."""
        return self.node.send(anyone, self._call.score(number, root, list(payouts)))

    def cancel(self, anyone: LocalAccount, number: int) -> TxReceipt:
        """Give the pot of a round without a result back to the keeper, after its deadline."""
        return self.node.send(anyone, self._call.cancel(number))

    def withdraw(self, anyone: LocalAccount) -> TxReceipt:
        """Send the caller what it is owed."""
        return self.node.send(anyone, self._call.withdraw())

    def slash(
        self, anyone: LocalAccount, member: str, number: int, first: Said, second: Said
    ) -> TxReceipt:
        """Prove that a member has made two different commitments for one round."""
        return self.node.send(anyone, self._call.slash(member, number, *first, *second))

    def said(self, member: LocalAccount, number: int, commitment: bytes) -> Said:
        """A signed commitment, to hand to others before it is on the chain (EIP-712).

        Sign one for a round and no other: the two together cost the stake.
        """
        typed = encode_typed_data(
            {
                "name": "Tacit settlement",
                "version": "1",
                "chainId": self.node.chain_id,
                "verifyingContract": self.address,
            },
            {
                "Commitment": [
                    {"name": "round", "type": "uint256"},
                    {"name": "commitment", "type": "bytes32"},
                ]
            },
            {"round": number, "commitment": commitment},
        )
        return Said(commitment, bytes(member.sign_message(typed).signature))
