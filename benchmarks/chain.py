"""What anchoring and settling cost, in gas: the same on every machine, and on every chain.

python benchmarks/chain.py

A whole settlement of 20 members on py-evm in this process (Prague's rules), as tests run it; the
table in docs/chain.md is this one.
"""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

from eth_account import Account
from web3 import EthereumTesterProvider

from tacit.ledger.chain.anchor import Anchors
from tacit.ledger.chain.node import Node
from tacit.ledger.chain.settlement import Settlement, result
from tacit.ledger.note import Checkpoint

MEMBERS, ETHER = 20, 10**18
ORIGIN = "tacit/0123456789abcdef"


class InProcess(EthereumTesterProvider):
    """py-evm, which is not asked for estimates: it would carry out each call fifteen times."""

    def make_request(self, method, params):
        if method == "eth_estimateGas":
            return {"jsonrpc": "2.0", "id": 1, "result": 5_000_000}
        return super().make_request(method, params)


def word(text: str) -> bytes:
    return sha256(text.encode()).digest()


def measured() -> dict[str, list[int]]:
    """Gas of each transaction, by what it is for."""
    provider = InProcess()
    node = Node(provider, 131277322940537, confirmations=1, pause=lambda: None)
    accounts = [Account.from_key(word(f"member {i}")) for i in range(MEMBERS + 1)]
    for each in accounts:
        node.web3.eth.send_transaction(
            {"from": node.web3.eth.accounts[0], "to": each.address, "value": 10 * ETHER}
        )
    keeper, *members = accounts
    gas: dict[str, list[int]] = defaultdict(list)

    def told(step: str, receipt) -> str:
        gas[step].append(receipt["gasUsed"])
        return receipt["contractAddress"]

    address = told("deploy Anchor", Anchors.deploy(node, keeper, ORIGIN))
    anchors = Anchors(node, address, ORIGIN)
    for size in (25, 47, 69, 91):
        name = "anchor" if size > 25 else "anchor, the first"
        told(name, anchors.anchor(keeper, Checkpoint(ORIGIN, size, word(str(size)))))

    agreed = {f"site {i:02}": each.address for i, each in enumerate(members)}, b"genesis"
    deployed = Settlement.deploy(node, keeper, agreed[0], ETHER // 10, agreed[1])
    settlement = Settlement(node, told("deploy Settlement", deployed), *agreed)
    for member in members:
        told("register", settlement.register(member))
    for number in range(2):
        if number == 1:  # the first round pays for places that the next ones find
            for step in ("open", "commit", "post", "attest", "score", "withdraw"):
                gas[f"{step}, first round"] = gas.pop(step)
        now = node.web3.eth.get_block("latest")["timestamp"]
        told("open", settlement.open(keeper, number, ETHER, now + 3600))
        for member in members:
            commitment = word(f"{member.address} {number}")
            told("commit", settlement.commit(member, number, commitment))
        shares = {name: ETHER // MEMBERS - 1 - i for i, name in enumerate(agreed[0])}
        digest = result(word("root"), shares)
        told("post", settlement.post(keeper, number, digest))
        for member in members[: settlement.quorum]:
            told("attest", settlement.attest(member, number, digest))
        told("score", settlement.score(keeper, number, word("root"), shares))
        for member in members:
            told("withdraw", settlement.withdraw(member))
    said = (settlement.said(members[0], 2, word(text)) for text in ("one", "another"))
    told("slash", settlement.slash(members[1], "site 00", 2, *said))
    return gas


STEPS = ("open", "commit", "post", "attest", "score", "withdraw")


def table(gas: dict[str, Sequence[int]]) -> str:
    """Markdown: a line for each step, and for the whole."""
    rows = [("what", "by whom", "times", "gas of the dearest", "gas in all")]
    rows.append(("---", "---", "---:", "---:", "---:"))
    who = {
        "deploy Anchor": "keeper", "anchor, the first": "keeper", "anchor": "keeper",
        "deploy Settlement": "keeper", "register": "each member", "open": "keeper",
        "commit": "each member", "post": "keeper", "attest": "a quorum", "score": "anyone",
        "withdraw": "each member", "slash": "anyone",
    }  # fmt: skip
    for step, by in who.items():
        used, times = gas[step], 1 if step == "anchor" else len(gas[step])
        rows.append((step, by, str(times), f"{max(used):,}", f"{sum(used[:times]):,}"))
    first = sum(sum(gas[step + ", first round"]) for step in STEPS)
    rows.append(("the first round, in all", "", "", "", f"{first:,}"))
    rows.append(("every later round", "", "", "", f"{sum(sum(gas[s]) for s in STEPS):,}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table(measured()))
