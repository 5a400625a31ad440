"""Heads on a chain, in process and on a node: what counts, and what a node can do wrong."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from chains import Chain, account, anvil, in_process
from tacit.ledger.chain.anchor import Anchors
from tacit.ledger.chain.node import (
    ChainError,
    Node,
    NodeDown,
    Reorganised,
    Reverted,
    Stuck,
    Unfunded,
    WrongChain,
)
from tacit.ledger.note import Checkpoint

ORIGIN = "tacit/0123456789abcdef"


@pytest.fixture(scope="module")
def node_process() -> Iterator[Chain]:
    with anvil() as chain:
        yield chain


@pytest.fixture(params=["py-evm", "anvil"])
def chain(request: pytest.FixtureRequest) -> Chain:
    return in_process() if request.param == "py-evm" else request.getfixturevalue("node_process")


def head(size: int, word: str = "") -> Checkpoint:
    return Checkpoint(ORIGIN, size, bytes([size]) * 31 + bytes([len(word)]))


def deployed(chain: Chain, node: Node) -> Anchors:
    (keeper,) = chain.fund("keeper")
    receipt = Anchors.deploy(node, keeper, ORIGIN)
    return Anchors(node, receipt["contractAddress"], ORIGIN)


def test_heads_are_anchored_once_and_read_back(chain: Chain) -> None:
    node = chain.node()
    first = chain.web3.eth.block_number
    anchors, keeper = deployed(chain, node), account("keeper")
    for size in (3, 7, 12):
        assert anchors.anchor(keeper, head(size)) is not None
    assert anchors.anchor(keeper, head(7)) is None
    found = anchors.heads(first)
    assert [(each.size, each.root) for each in found] == [(s, head(s).root) for s in (3, 7, 12)]
    times = [chain.web3.eth.get_block(each.block)["timestamp"] for each in found]
    assert [each.time for each in found] == times


def test_another_root_of_as_many_entries_is_told_and_not_sent(chain: Chain) -> None:
    anchors, keeper = deployed(chain, chain.node()), account("keeper")
    anchors.anchor(keeper, head(5))
    with pytest.raises(ChainError, match="another record of 5 entries is anchored"):
        anchors.anchor(keeper, head(5, "other"))


def test_the_contract_refuses_strangers_and_smaller_heads(chain: Chain) -> None:
    anchors = deployed(chain, chain.node())
    (stranger,) = chain.fund("stranger")
    with pytest.raises(Reverted, match="only the keeper anchors"):
        anchors.anchor(stranger, head(1))
    anchors.anchor(account("keeper"), head(9))
    with pytest.raises(Reverted, match="is anchored already"):
        anchors.anchor(account("keeper"), head(8))


def test_another_chain_is_told_before_anything_is_signed(chain: Chain) -> None:
    (keeper,) = chain.fund("keeper")
    before = chain.web3.eth.get_transaction_count(keeper.address)
    with pytest.raises(WrongChain, match=f"is on chain {chain.id}, and chain 1 is meant"):
        Anchors.deploy(Node(chain.provider, 1, looks=1, raises=0), keeper, ORIGIN)
    assert chain.web3.eth.get_transaction_count(keeper.address) == before


def test_another_contract_is_not_taken_for_ours(chain: Chain) -> None:
    node = chain.node()
    anchors = deployed(chain, node)
    with pytest.raises(WrongChain, match="no such contract"):
        Anchors(node, account("nobody").address, ORIGIN)
    with pytest.raises(WrongChain, match="anchors another log"):
        Anchors(node, anchors.address, "tacit/another")


def test_who_cannot_pay_is_told_so_before_anything_is_sent(chain: Chain) -> None:
    with pytest.raises(Unfunded, match=r"has 0 and may have to pay 0\.00"):
        Anchors.deploy(chain.node(), account("poor"), ORIGIN)


def test_who_can_pay_a_little_is_told_what_it_takes_before_anything_is_sent(
    node_process: Chain,
) -> None:
    some, rich = account("some"), node_process.web3.eth.accounts[0]
    node_process.web3.eth.send_transaction({"from": rich, "to": some.address, "value": 10**14})
    with pytest.raises(Unfunded, match=r"has 0\.0001 and may have to pay 0\.00"):
        Anchors.deploy(node_process.node(), some, ORIGIN)
    assert node_process.web3.eth.get_transaction_count(some.address) == 0


def test_what_is_not_deep_enough_does_not_count(chain: Chain) -> None:
    first = chain.web3.eth.block_number
    anchors, keeper = deployed(chain, chain.node()), account("keeper")
    receipt = anchors.anchor(keeper, head(3))
    assert receipt is not None
    deep = Anchors(chain.node(confirmations=3), anchors.address, ORIGIN)
    with pytest.raises(ChainError, match="in a block on which fewer than 2 lie"):
        deep.anchor(keeper, head(3))
    for on_it in range(3):
        assert len(deep.heads(first)) == (on_it == 2)
        chain.mine()
    again = deep.anchor(keeper, head(4))
    assert again is not None
    assert chain.web3.eth.block_number == again["blockNumber"] + 2


class Script:
    """What happens to a chain while its user waits, step by step; nothing after the last."""

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)

    def __call__(self) -> None:
        if self.steps:
            self.steps.pop(0)()  # type: ignore[operator]


@pytest.fixture
def waiting() -> Iterator[Chain]:
    """A node that makes blocks only when it is told to."""
    with anvil() as chain:
        yield chain


def stop(chain: Chain) -> None:
    chain.ask("evm_setAutomine", False)


def prices(chain: Chain) -> list[int]:
    pending = chain.ask("txpool_content")["pending"]
    return [int(tx["maxFeePerGas"], 16) for of in pending.values() for tx in of.values()]


def test_a_transaction_that_no_block_takes_is_offered_more_for_and_then_taken(
    waiting: Chain,
) -> None:
    anchors, keeper = deployed(waiting, waiting.node()), account("keeper")
    stop(waiting)
    seen: list[int] = []

    def look() -> None:
        seen.extend(prices(waiting))
        if len(seen) == 3:
            waiting.mine()

    anchors.node = waiting.node(look, looks=2)
    assert anchors.anchor(keeper, head(3)) is not None
    assert seen[0] == seen[1]
    assert seen[2] >= seen[0] * 1.1  # a node takes no less for a replacement
    assert prices(waiting) == []
    assert waiting.web3.eth.get_transaction_count(keeper.address) == 2


def test_a_transaction_that_stays_stuck_ends_with_a_sentence_and_is_replaced_next_time(
    waiting: Chain,
) -> None:
    anchors, keeper = deployed(waiting, waiting.node()), account("keeper")
    stop(waiting)
    anchors.node = waiting.node(lambda: None, looks=2, raises=2)
    with pytest.raises(Stuck, match=rf"no block took transaction 1 of {keeper.address}"):
        anchors.anchor(keeper, head(3))
    (stuck,) = prices(waiting)
    anchors.node = waiting.node(
        lambda: [waiting.mine() for price in prices(waiting) if price > stuck], looks=2, raises=5
    )
    assert anchors.anchor(keeper, head(3)) is not None
    assert waiting.web3.eth.get_transaction_count(keeper.address) == 2


def test_no_more_than_the_highest_price_is_offered(waiting: Chain) -> None:
    (keeper,) = waiting.fund("keeper")
    stop(waiting)
    node = waiting.node(lambda: None, looks=1, raises=9, most_price=3 * 10**9)
    with pytest.raises(Stuck, match="at up to 3 gwei"):
        Anchors.deploy(node, keeper, ORIGIN)
    assert max(prices(waiting)) <= 3 * 10**9


def test_a_block_that_the_chain_drops_does_not_count_and_the_head_is_sent_again(
    waiting: Chain,
) -> None:
    anchors, keeper = deployed(waiting, waiting.node()), account("keeper")
    stop(waiting)
    dropped: list[str] = []

    def drop() -> None:
        before = waiting.web3.eth.get_block("latest")
        dropped.extend(each.hex() for each in before["transactions"])
        waiting.ask("anvil_reorg", 1, [])
        assert waiting.web3.eth.get_block("latest")["transactions"] == []

    script = Script(waiting.mine, drop, lambda: None, waiting.mine, waiting.mine, waiting.mine)
    anchors.node = waiting.node(script, confirmations=3)
    receipt = anchors.anchor(keeper, head(3))
    assert receipt is not None
    assert dropped == [receipt["transactionHash"].hex()]
    assert waiting.web3.eth.block_number == receipt["blockNumber"] + 2
    assert waiting.web3.eth.get_transaction_count(keeper.address) == 2


def test_a_chain_that_drops_the_block_again_and_again_is_not_waited_for(waiting: Chain) -> None:
    anchors, keeper = deployed(waiting, waiting.node()), account("keeper")
    stop(waiting)

    def drop() -> None:
        waiting.ask("anvil_reorg", 1, [])

    anchors.node = waiting.node(Script(*[waiting.mine, drop] * 4), confirmations=3)
    with pytest.raises(Reorganised, match="dropped the transaction's block 4 times"):
        anchors.anchor(keeper, head(3))


def test_a_chain_that_stops_is_told_from_one_that_refuses(waiting: Chain) -> None:
    anchors, keeper = deployed(waiting, waiting.node()), account("keeper")
    anchors.node = waiting.node(lambda: None, confirmations=3, looks=4)
    with pytest.raises(Stuck, match="the chain makes no more blocks"):
        anchors.anchor(keeper, head(3))


def test_a_node_that_dies_while_it_is_waited_for_is_told() -> None:
    with anvil() as chain:
        anchors, keeper = deployed(chain, chain.node()), account("keeper")
        stop(chain)
        anchors.node = chain.node(lambda: None)
    with pytest.raises(NodeDown, match=r"the chain's node 127\.0\.0\.1 does not answer"):
        anchors.anchor(keeper, head(3))


def test_an_address_that_holds_a_customers_key_is_not_told() -> None:
    node = Node.at("http://user:secret@127.0.0.1:9/v3/secret", 1)
    with pytest.raises(NodeDown) as told:
        node.require_chain()
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (401, b"", NodeDown, r"does not answer \(status 401\)"),
        (200, b"<html>sign in here</html>", ChainError, "says: "),
        (200, b'{"jsonrpc": "2.0", "id": 0, "result": "0x5"}', WrongChain, "is on chain 5"),
        (200, b'{"jsonrpc": "2.0", "id": 0, "error": {"code": -32005, "message": "slow down"}}',
         ChainError, "slow down"),
        (200, b"[]", ChainError, "says: "),
        (200, b'{"jsonrpc": "2.0", "id": 0, "result": "five"}', ChainError, "says: "),
    ],
)  # fmt: skip
def test_whatever_a_node_says_is_one_sentence(
    status: int, body: bytes, kind: type[ChainError], said: str
) -> None:
    class Odd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(kind, match=said) as told:
                Node.at(f"http://127.0.0.1:{server.server_port}", 1).require_chain()
            assert type(told.value) is kind
        finally:
            server.shutdown()
            thread.join()
