"""Chains for tests: py-evm in this process, and anvil, a node of its own on the loopback."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_tester.exceptions import TransactionFailed
from web3 import EthereumTesterProvider, HTTPProvider
from web3.exceptions import ContractLogicError
from web3.providers import BaseProvider

from tacit.ledger.chain.node import Node

ETHER = 10**18


def account(name: str) -> LocalAccount:
    """Always the same for a name."""
    return Account.from_key(sha256(name.encode()).digest())


class Chain:
    """A chain that makes a block for each transaction, unless it is told to wait."""

    def __init__(self, provider: BaseProvider, url: str = "") -> None:
        self.provider, self.url = provider, url
        self.web3 = Node(provider, 1).web3
        self.id = self.web3.eth.chain_id

    def ask(self, method: str, *arguments: Any) -> Any:
        answer = self.provider.make_request(method, list(arguments))  # type: ignore[arg-type]
        assert "error" not in answer, answer
        return answer["result"]

    def node(self, pause: Callable[[], object] | None = None, **settings: Any) -> Node:
        """A node that makes a block wherever its user waits, unless told otherwise."""
        settings = {"confirmations": 1} | settings
        return Node(self.provider, self.id, pause=pause or self.mine, **settings)

    def mine(self) -> None:
        self.ask("evm_mine")

    def fund(self, *names: str) -> list[LocalAccount]:
        found = [account(name) for name in names]
        for each in found:
            self.web3.eth.send_transaction(
                {"from": self.web3.eth.accounts[0], "to": each.address, "value": 10 * ETHER}
            )
        return found


class InProcess(EthereumTesterProvider):
    """py-evm, whose refusals are told as a node's are.

    Its search for the gas of a call carries it out some fifteen times; here once, to see whether it
    is refused.
    """

    def make_request(self, method: Any, params: Any) -> Any:
        if method == "eth_estimateGas":
            self.make_request("eth_call", params)
            return {"jsonrpc": "2.0", "id": 1, "result": 5_000_000}
        try:
            return super().make_request(method, params)
        except TransactionFailed as error:
            raise ContractLogicError(str(error)) from None


def in_process() -> Chain:
    return Chain(InProcess())


@contextmanager
def anvil() -> Iterator[Chain]:
    """A node's process; the test is skipped where there is none to start."""
    program = os.environ.get("TACIT_ANVIL") or shutil.which("anvil")
    if not program:
        pytest.skip("there is no anvil: name it in TACIT_ANVIL, or have it on the PATH")
    with tempfile.TemporaryDirectory() as home, open(f"{home}/said", "w+") as said:
        process = subprocess.Popen(
            [program, "--host", "127.0.0.1", "--port", "0", "--chain-id", "31337",
             "--hardfork", "prague"],
            stdout=said, stderr=subprocess.STDOUT, env={"HOME": home, "PATH": os.environ["PATH"]},
        )  # fmt: skip
        try:
            url = f"http://{_listening(process, Path(said.name))}"
            yield Chain(HTTPProvider(url, exception_retry_configuration=None), url)
        finally:
            process.kill()
            process.wait()


def _listening(process: "subprocess.Popen[bytes]", said: Path) -> str:
    """Where a node listens, once it does."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"Listening on (127\.0\.0\.1:\d+)\n", said.read_text()):
            return found[1]
        time.sleep(0.02)
    pytest.fail(f"anvil does not start: {said.read_text()}")
