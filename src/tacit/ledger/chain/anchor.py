"""A record's heads on a chain: what was anchored can be neither changed nor taken back.

``Anchor.vy`` is the contract. An auditor compares each head with the record's tree
(``tacit.ledger.verify``): a keeper that rewrote history since cannot have the same roots.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount
from web3.types import TxReceipt

from tacit.ledger.chain.contracts import contract
from tacit.ledger.chain.node import ChainError, Node, WrongChain
from tacit.ledger.note import Checkpoint

# Nodes refuse to search more at once.
_BLOCKS = 5000


@dataclass(frozen=True)
class Anchored:
    """A head on the chain: entries, root, and the time of its block in seconds since 1970."""

    size: int
    root: bytes
    block: int
    time: int


class Anchors:
    """The contract of one record's log.

    Args:
        node: of its chain.
        address: of the contract.
        origin: name of the log.

    Raises:
        NodeDown, WrongChain, ChainError: as in ``Node.contract``; WrongChain also for the contract
            of another log.
    """

    def __init__(self, node: Node, address: str, origin: str) -> None:
        self.node, self.address, self.origin = node, address, origin
        self._contract = node.contract(contract("Anchor"), address)
        with node.asked():
            found = self._contract.functions.origin().call()
        if found != _digest(origin):
            raise WrongChain(f"the contract at {address} anchors another log than {origin}")

    @classmethod
    def deploy(cls, node: Node, keeper: LocalAccount, origin: str) -> TxReceipt:
        """Put a contract for a log on the chain; who deploys it is its keeper.

        Raises:
            ChainError: as in ``Node.send``.
        """
        made = contract("Anchor")
        factory: Any = node.web3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
        return node.send(keeper, factory.constructor(_digest(origin)))

    def anchor(self, keeper: LocalAccount, head: Checkpoint) -> TxReceipt | None:
        """Anchor a head; None where it is there already.

        Raises:
            ChainError: another root is there, or this one since a moment ago; or as in
                ``Node.send``.
        """
        with self.node.asked():
            found = self._contract.functions.roots(head.size).call()
            deep = self._deep()
            logs = self._contract.events.Anchored.get_logs(
                argument_filters={"size": head.size}, from_block=deep
            )
        if found == head.root and any(log["blockNumber"] > deep for log in logs):
            raise ChainError(
                f"the head of {head.size} entries is in a block on which fewer than"
                f" {self.node.confirmations - 1} lie: look again with tacit chain status"
            )
        if found == head.root:
            return None
        if any(found):
            raise ChainError(
                f"another record of {head.size} entries is anchored at {self.address}: this one"
                " was rewritten since, or that one was"
            )
        return self.node.send(keeper, self._contract.functions.anchor(head.size, head.root))

    def heads(self, block: int) -> list[Anchored]:
        """All that was anchored and counts, in order.

        Args:
            block: of the contract's deployment, or before.

        Raises:
            NodeDown, ChainError: as in ``Node.asked``.
        """
        found = []
        with self.node.asked():
            eth = self.node.web3.eth
            end = self._deep()
            for start in range(block, end + 1, _BLOCKS):
                logs = self._contract.events.Anchored.get_logs(
                    from_block=start, to_block=min(start + _BLOCKS - 1, end)
                )
                for log in logs:
                    said, time = log["args"], eth.get_block(log["blockNumber"])["timestamp"]
                    found.append(Anchored(said["size"], said["root"], log["blockNumber"], time))
        return found

    def _deep(self) -> int:
        """The newest block that counts."""
        return max(self.node.web3.eth.block_number - self.node.confirmations + 1, 0)


def _digest(origin: str) -> bytes:
    return hashlib.sha256(origin.encode()).digest()
