"""A node of an EVM chain, over JSON-RPC: transactions signed here, sent, and waited for.

A transaction counts once so many blocks lie on it. Until then the chain may still drop its block
(a reorganisation), and a price that was good may have become too low to be taken into one.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import HTTPProvider, Web3
from web3.exceptions import (
    CannotHandleRequest,
    ContractLogicError,
    ProviderConnectionError,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers import BaseProvider
from web3.types import TxReceipt

from tacit.errors import InputError, TacitError, require


class ChainError(TacitError):
    """A chain's node said no, or something that makes no sense."""

    code = "TACIT-120"


class NodeDown(ChainError):
    """A chain's node that does not answer."""

    code = "TACIT-121"


class WrongChain(ChainError):
    """A node of another chain, or a contract that is not ours."""

    code = "TACIT-122"


class Stuck(ChainError):
    """A transaction that no block takes, even at a higher price."""

    code = "TACIT-123"


class Reorganised(ChainError):
    """A transaction that blocks took, and that the chain dropped again and again."""

    code = "TACIT-124"


class Unfunded(ChainError):
    """An account that cannot pay."""

    code = "TACIT-125"


class Reverted(ChainError):
    """A transaction that the contract refuses."""

    code = "TACIT-126"


# A node takes a transaction in another's place at a price that is a tenth higher, at least.
_RAISE = 1.25
# More than was estimated, since other transactions may come first.
_SPARE = 1.25
# Of any transaction.
_LEAST_GAS = 21_000
_MOST_LOST = 3
GWEI = 10**9


class Node:
    """A chain, as one of its nodes shows it.

    Args:
        provider: of ``at``, or another of web3's.
        chain_id: that the chain must have; it is asked before anything is signed.
        confirmations: blocks that make a transaction count, its own included.
        most_price: in wei for a unit of gas; no more is ever offered.
        looks: at the node, for one price or for one more block, until that one is given up.
        raises: how often a higher price is offered.
        pause: waits between two looks.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        provider: BaseProvider,
        chain_id: int,
        *,
        confirmations: int = 12,
        most_price: int = 200 * GWEI,
        looks: int = 60,
        raises: int = 3,
        pause: Callable[[], object] = lambda: time.sleep(4),
    ) -> None:
        require(confirmations > 0, "confirmations", confirmations, "1 or more")
        require(most_price > 0, "most_price", most_price, "1 or more")
        self.web3, self.chain_id = Web3(provider), chain_id
        self.confirmations, self.most_price = confirmations, most_price
        self.looks, self.raises, self.pause = looks, raises, pause
        # Blocks of a consortium's chain carry their signers.
        self.web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
        # An address may hold the key of a provider's customer: the host alone is ever told.
        url = getattr(provider, "endpoint_uri", None)
        self.host = urlsplit(str(url)).hostname if url else "in this process"

    @classmethod
    def at(cls, url: str, chain_id: int, **settings: Any) -> "Node":
        """The node at an address.

        Raises:
            InputError: an address that is not http or https, or a setting out of range.
        """
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        require(fits, "node", parts.scheme, "an address that begins with http:// or https://")
        provider = HTTPProvider(url, {"timeout": 30}, exception_retry_configuration=None)
        return cls(provider, chain_id, **settings)

    def require_chain(self) -> None:
        """Look which chain it is.

        Raises:
            NodeDown, ChainError: as in ``asked``.
            WrongChain: another.
        """
        with self.asked():
            found = self.web3.eth.chain_id
        if found != self.chain_id:
            raise WrongChain(
                f"the node {self.host} is on chain {found}, and chain {self.chain_id} is meant;"
                " nothing was signed"
            )

    def contract(self, contract: dict[str, Any], address: str) -> Any:
        """One of our contracts, which must be there.

        Raises:
            NodeDown, WrongChain, ChainError: as in ``require_chain``.
            WrongChain: another contract lies there, or none.
        """
        self.require_chain()
        with self.asked():
            code = self.web3.eth.get_code(Web3.to_checksum_address(address))
        # What the constructor fixed follows the code.
        if not code or not code.hex().startswith(contract["runtime"].removeprefix("0x")):
            raise WrongChain(f"on chain {self.chain_id} there is no such contract at {address}")
        return self.web3.eth.contract(Web3.to_checksum_address(address), abi=contract["abi"])

    def send(self, account: LocalAccount, call: Any, value: int = 0) -> TxReceipt:
        """Have a call carried out, and wait until it counts.

        Args:
            account: that signs and pays; of nobody else, since what it has waiting is replaced.
            call: a contract's function or constructor, with its arguments.
            value: in wei.

        Raises:
            NodeDown: what was sent before it, if anything, may still be carried out.
            WrongChain, Unfunded, Reverted: nothing was sent.
            Stuck, Reorganised, ChainError: as they say.
        """
        self.require_chain()
        with self.asked():
            eth = self.web3.eth
            tip: int = eth.max_priority_fee
            price: int = 2 * self._base_fee() + tip
            self._require_funds(account, _LEAST_GAS * min(price, self.most_price) + value)
            who = {"from": account.address, "value": value}
            gas = math.ceil(call.estimate_gas(who) * _SPARE)
            # Not the next after those that wait: one that is stuck would hold up all after it.
            nonce = eth.get_transaction_count(account.address, "latest")
            self._require_funds(account, gas * min(price, self.most_price) + value)
            sent: list[Any] = []
            for _ in range(self.raises + 1):
                price, tip = min(price, self.most_price), min(tip, self.most_price)
                fees = {"maxFeePerGas": price, "maxPriorityFeePerGas": tip}
                terms = {"chainId": self.chain_id, "gas": gas, "nonce": nonce}
                made = call.build_transaction(who | fees | terms)
                sent.append(account.sign_transaction(made))
                self._push(sent[-1].raw_transaction)
                if (receipt := self._deep(sent)) is not None:
                    return receipt
                price, tip = math.ceil(price * _RAISE), math.ceil(tip * _RAISE)
        raise Stuck(
            f"no block took transaction {nonce} of {account.address} at up to"
            f" {min(price, self.most_price) / GWEI:.3g} gwei; it still waits, and the same command"
            " offers more for it later"
        )

    @contextmanager
    def asked(self) -> Iterator[None]:
        """What a node can do wrong, as one sentence each.

        Raises:
            NodeDown: it does not answer.
            Reverted: the contract refuses.
            ChainError: anything else.
        """
        try:
            yield
        except (requests.RequestException, ProviderConnectionError, CannotHandleRequest) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            why = f"status {status}" if status else type(error).__name__
            raise NodeDown(f"the chain's node {self.host} does not answer ({why})") from None
        except ContractLogicError as error:
            raise Reverted(f"the contract refuses: {_reason(error)}") from None
        except (Web3Exception, ValueError) as error:  # ValueError: no JSON
            raise ChainError(f"the chain's node {self.host} says: {error!s:.200}") from None

    def _base_fee(self) -> int:
        """Wei that a block takes for a unit of gas (EIP-1559)."""
        fee = self.web3.eth.get_block("latest").get("baseFeePerGas")
        if fee is None:
            raise ChainError(f"chain {self.chain_id} has no base fee: it is too old for this")
        return fee

    def _require_funds(self, account: LocalAccount, most: int) -> None:
        balance = self.web3.eth.get_balance(account.address)
        if balance < most:
            raise Unfunded(
                f"{account.address} has {Web3.from_wei(balance, 'ether')} and may have to pay"
                f" {Web3.from_wei(most, 'ether')} of the chain's coin; send it more"
            )

    def _push(self, raw: bytes) -> None:
        """Hand a transaction over; one that is there, or too cheap to replace another, is not."""
        try:
            self.web3.eth.send_raw_transaction(raw)
        except Web3RPCError as error:
            said = str(error).lower()
            if not any(word in said for word in ("already", "underpriced", "nonce too low")):
                raise

    def _deep(self, sent: list[Any]) -> TxReceipt | None:
        """The receipt of one of these, once it counts; None where no block takes any."""
        looks, lost, head, seen = 0, 0, -1, False
        while looks < self.looks:
            receipt = self._receipt(sent)
            now = self.web3.eth.block_number
            if receipt is not None:
                if not receipt["status"]:
                    raise Reverted("the contract refuses: other transactions came first")
                if now - receipt["blockNumber"] + 1 >= self.confirmations:
                    return receipt
                looks = 0 if now != head else looks
            elif seen:
                lost += 1
                if lost > _MOST_LOST:
                    raise Reorganised(
                        f"the chain dropped the transaction's block {lost} times; it is not"
                        " settled what this chain says: try again later"
                    )
                self._push(sent[-1].raw_transaction)
                looks = 0
            head, seen = now, receipt is not None
            looks += 1
            self.pause()
        if seen:
            raise Stuck(
                "the transaction is in a block, and the chain makes no more blocks to lie on it"
            )
        return None

    def _receipt(self, sent: list[Any]) -> TxReceipt | None:
        for each in sent:
            try:
                return self.web3.eth.get_transaction_receipt(each.hash)
            except TransactionNotFound:
                continue
        return None


def new_key() -> LocalAccount:
    """An account of a new key, from the operating system's randomness."""
    made: LocalAccount = Account.create()
    return made


def account_of(key: str, where: str) -> LocalAccount:
    """The account of a key.

    Args:
        key: 64 hex digits.
        where: that is told if it is none; the key never is.

    Raises:
        InputError: no key.
    """
    try:
        found: LocalAccount = Account.from_key(bytes.fromhex(key.strip().removeprefix("0x")))
    except Exception:  # of any kind, and with the key in its text
        raise InputError(f"{where} holds no key of 64 hex digits") from None
    return found


def _reason(error: ContractLogicError) -> str:
    said = str(error.message or error).removeprefix("execution reverted")
    return said.strip(": ") or "it gives no reason"
