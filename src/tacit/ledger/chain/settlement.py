"""Payments for rounds on a chain: a quorum of the members says who gets what.

``Settlement.vy`` is the contract. A round is opened with a pot; members commit to what they sent;
the keeper posts the digest of the payouts; each member reckons them from the record, and attests;
with a quorum of attestations they are credited, and everybody withdraws. A stake is lost on two
different commitments by one member for one round, and on nothing else: a low score proves nothing.

The EVM has no Ed25519, so that members sign here with other keys. The contract fixes the digest of
their record's genesis, which holds their names and Ed25519 keys, and of the address behind each
name; a member that puts down its stake agrees with that.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from eth_abi import encode
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError
from web3 import Web3
from web3.types import TxReceipt

from tacit.errors import InputError, require
from tacit.ledger.chain.contracts import contract
from tacit.ledger.chain.node import Node, WrongChain
from tacit.ledger.statement import Json, canonical

# As in the contract.
MOST_MEMBERS = 100
T = TypeVar("T", int, str)


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


def result(root: bytes, payouts: Mapping[str, int]) -> bytes:
    """keccak256 of the record's root and the payouts, as the chain's ABI encodes them.

    Args:
        root: 32 bytes, of the record that the payouts were reckoned from.
        payouts: of every member, in wei.
    """
    return bytes(Web3.keccak(encode(["bytes32", "uint256[]"], [root, _ordered(payouts)])))


class Settlement:
    """The contract of one federation.

    Args:
        node: of its chain.
        address: of the contract.
        members: names to addresses.
        genesis: first entry of the members' record.

    Every step raises ChainError as in ``Node.send``; Reverted says which rule forbids it.

    Raises:
        NodeDown, WrongChain, ChainError: as in ``Node.contract``; WrongChain also where the
            contract was made for another record, or other members.
    """

    def __init__(
        self, node: Node, address: str, members: Mapping[str, str], genesis: bytes
    ) -> None:
        self.node, self.address, self.members = node, Web3.to_checksum_address(address), members
        self._contract = node.contract(contract("Settlement"), address)
        self._call: Any = self._contract.functions
        with node.asked():
            self.stake: int = self._call.stake().call()
            self.quorum: int = self._call.quorum().call()
            everyone, terms = self._call.everyone().call(), self._call.terms().call()
        if terms != _terms(members, genesis) or everyone != _ordered(members):
            raise WrongChain(
                f"the contract at {address} was made for another record, or for other members"
            )

    @classmethod
    def deploy(
        cls,
        node: Node,
        keeper: LocalAccount,
        members: Mapping[str, str],
        stake: int,
        genesis: bytes,
    ) -> TxReceipt:
        """Put a contract on the chain; who deploys it opens its rounds, and posts their results.

        Args:
            members: names to addresses, 100 at most.
            stake: of each, in wei.
            genesis: first entry of the members' record.

        Raises:
            InputError: what is no address, or too many.
            ChainError: as in ``Node.send``.
        """
        require(0 < len(members) <= MOST_MEMBERS, "members", len(members), f"1 to {MOST_MEMBERS}")
        for name, address in members.items():
            if not Web3.is_checksum_address(address):
                raise InputError(
                    f"members: {address!r:.50} of {name} is no address; allowed is 0x and 40 hex"
                    " digits, with capitals as in EIP-55"
                )
        made = contract("Settlement")
        factory: Any = node.web3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
        terms = _terms(members, genesis)
        return node.send(keeper, factory.constructor(_ordered(members), stake, terms))

    def round(self, number: int) -> Round:
        """How far a round is."""
        with self.node.asked():
            pot, deadline, posted, attested = self._call.rounds(number).call()
        return Round(pot, deadline, posted, attested >> 128)

    def opened(self) -> int:
        """How many rounds were opened; the number of the next."""
        with self.node.asked():
            return int(self._call.opened().call())

    def time(self) -> int:
        """Of the newest block, in seconds since 1970."""
        with self.node.asked():
            return int(self.node.web3.eth.get_block("latest")["timestamp"])

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
        self, anyone: LocalAccount, number: int, root: bytes, payouts: Mapping[str, int]
    ) -> TxReceipt:
        """Credit what a quorum has attested."""
        return self.node.send(anyone, self._call.score(number, root, _ordered(payouts)))

    def cancel(self, anyone: LocalAccount, number: int) -> TxReceipt:
        """Give the pot of a round without a result back to the keeper, after its deadline.

        The round can be opened again.
        """
        return self.node.send(anyone, self._call.cancel(number))

    def withdraw(self, anyone: LocalAccount) -> TxReceipt:
        """Send the caller what it is owed."""
        return self.node.send(anyone, self._call.withdraw())

    def slash(
        self, anyone: LocalAccount, name: str, number: int, first: Said, second: Said
    ) -> TxReceipt:
        """Prove that a member has made two different commitments for one round."""
        member = self.members[name]
        return self.node.send(anyone, self._call.slash(member, number, *first, *second))

    def said(self, member: LocalAccount, number: int, commitment: bytes) -> Said:
        """A signed commitment, to hand to others before it is on the chain (EIP-712).

        Sign one for a round and no other: the two together cost the stake.
        """
        typed = self._typed(number, commitment)
        return Said(commitment, bytes(member.sign_message(typed).signature))

    def signer(self, number: int, said: Said) -> str | None:
        """The member who has signed a commitment for a round of this contract, if one has."""
        typed = self._typed(number, said.commitment)
        try:
            address = Account.recover_message(typed, signature=said.signature)
        except (BadSignature, ValidationError, ValueError):  # numbers that are no signature
            return None
        return next((name for name, each in self.members.items() if each == address), None)

    def committed(self, name: str, number: int) -> Said:
        """What a member has committed to on the chain; zeros where it has not."""
        with self.node.asked():
            return Said(self._call.commitments(number, self.members[name]).call())

    def _typed(self, number: int, commitment: bytes) -> SignableMessage:
        return encode_typed_data(
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


def _ordered(by_name: Mapping[str, T]) -> list[T]:
    """In the contract's order of members: by name."""
    return [by_name[name] for name in sorted(by_name)]


def _terms(members: Mapping[str, str], genesis: bytes) -> bytes:
    said: Json = {"genesis": hashlib.sha256(genesis).hexdigest(), "members": dict(members)}
    return hashlib.sha256(canonical(said)).digest()
