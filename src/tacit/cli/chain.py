"""``tacit chain``: the record's heads, and payments, on an EVM chain."""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.ledger import Record
from tacit.cli.output import Json, print_json
from tacit.errors import InputError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from tacit.ledger.chain.agreed import Agreed
    from tacit.ledger.chain.node import Node
    from tacit.ledger.chain.settlement import Settlement
    from tacit.ledger.log import Log

NODE, KEY = "TACIT_CHAIN_NODE", "TACIT_CHAIN_KEY"
Url = Annotated[
    str,
    typer.Option(
        "--node", envvar=NODE, show_envvar=True, metavar="URL", help="A node of the chain."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", help=f"Of tacit chain key; by default the key itself is in {KEY}."
    ),
]
Confirmations = Annotated[
    int, typer.Option(help="Blocks that make a transaction count, its own included.")
]
MostPrice = Annotated[int, typer.Option(help="The most to offer for a unit of gas, in gwei.")]

app = typer.Typer(no_args_is_help=True)


class Step(StrEnum):
    register = "register"
    open = "open"
    commit = "commit"
    post = "post"
    attest = "attest"
    score = "score"
    withdraw = "withdraw"
    cancel = "cancel"
    leave = "leave"
    reclaim = "reclaim"


@app.command()
def key(file: Annotated[Path, typer.Argument(metavar="FILE", help="To make.")]) -> None:
    """Make a key for the chain, in a file that only its owner may read, and print its address."""
    from tacit.ledger.chain.node import new_key

    account = new_key()
    try:
        file.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise InputError(f"FILE: {file} is there already; give a new one") from None
    file.write_text(account.key.hex() + "\n")
    typer.echo(account.address)


@app.command()
def deploy(
    record: Record,
    chain_id: Annotated[int, typer.Option(help="Number of the chain that is meant (EIP-155).")],
    node: Url,
    key: KeyFile = None,
    members: Annotated[
        Path | None,
        typer.Option(help="JSON file, members' names to addresses: a contract that pays them."),
    ] = None,
    stake: Annotated[int, typer.Option(help="Of each of these members, in wei.")] = 0,
    confirmations: Confirmations = 12,
    most_price: MostPrice = 200,
) -> None:
    """Put the contract for a record's heads on the chain; with --members, the one that pays them.

    Which contracts these are stands in chain.json, beside the record. Give it to everybody.
    """
    from tacit.ledger.chain.agreed import FILE, Agreed
    from tacit.ledger.chain.anchor import Anchors
    from tacit.ledger.chain.settlement import Settlement

    file, log, account = record / FILE, _log(record), _account(key)
    at = _node(node, chain_id, confirmations, most_price)
    agreed = Agreed.read(file) if file.exists() else None
    if agreed and agreed.chain != chain_id:
        raise InputError(f"chain-id: {chain_id} was given; {file} says {agreed.chain}")
    if agreed and (agreed.settlement or not members):
        raise InputError(f"record: {file} names its contracts already")
    if agreed is None:
        receipt = Anchors.deploy(at, account, log.origin)
        agreed = Agreed(chain_id, str(receipt["contractAddress"]), receipt["blockNumber"])
        agreed.write(file)
        _tell(f"Heads: {agreed.anchors}", receipt)
    if members:
        named = _members(members)
        receipt = Settlement.deploy(at, account, named, stake, log[0])
        paid_at = str(receipt["contractAddress"])
        Agreed(agreed.chain, agreed.anchors, agreed.block, paid_at, named).write(file)
        _tell(f"Payments: {paid_at}", receipt)


@app.command()
def anchor(
    record: Record,
    node: Url,
    key: KeyFile = None,
    confirmations: Confirmations = 12,
    most_price: MostPrice = 200,
) -> None:
    """Put the record's head on the chain, once, and wait until it counts."""
    from tacit.ledger.chain.anchor import Anchors
    from tacit.ledger.recorder import kept

    policy, log = kept(record)
    head = policy.check(log.note() or "")
    agreed, account = _agreed(record), _account(key)
    at = _node(node, agreed.chain, confirmations, most_price)
    receipt = Anchors(at, agreed.anchors, log.origin).anchor(account, head)
    if receipt is None:
        typer.echo(f"The head of {head.size} entries is anchored already.")
    else:
        _tell(f"Anchored: {head.size} entries, root {head.root.hex()[:16]}", receipt)


@app.command()
def settle(
    step: Annotated[Step, typer.Argument(help="What to do, in the round that is open.")],
    record: Record,
    node: Url,
    key: KeyFile = None,
    pot: Annotated[int, typer.Option(help="What open pays in, in wei.")] = 0,
    hours: Annotated[int, typer.Option(help="How long open leaves the round open.")] = 168,
    to: Annotated[
        Path | None,
        typer.Option(help="New file into which commit signs, for others, and sends nothing."),
    ] = None,
    confirmations: Confirmations = 12,
    most_price: MostPrice = 200,
) -> None:
    """Carry out a step of a payment: register once, then open, commit, post, attest, score.

    The chain's first round pays what the record's first settlement says, and so on. The keeper
    opens the round with its pot, and posts the digest of the payouts; members commit to what they
    have sent, and attest if they come to the same payouts. With a quorum of them anyone may score,
    and everybody can withdraw. Before post and attest the record is verified. cancel gives the
    keeper its pot back after the deadline; leave and reclaim, a member its stake.
    """
    from tacit.ledger.chain import agreed as told
    from tacit.ledger.chain import signed
    from tacit.ledger.chain.settlement import result

    if to is not None and step != Step.commit:
        raise InputError(f"--to: it was given with {step.value}; commit alone is signed for others")
    log, account, agreed = _log(record), _account(key), _agreed(record)
    at = _node(node, agreed.chain, confirmations, most_price)
    contract = _settlement(at, agreed, log)
    number = contract.opened() - (step != Step.open)
    whenever = (Step.register, Step.withdraw, Step.leave, Step.reclaim)
    if number < 0 and step not in whenever:
        raise InputError(f"step: {step.value} was given, and no round was opened yet")
    match step:
        case _ if step in whenever:
            receipt = getattr(contract, step.value)(account)
        case Step.open:
            receipt = contract.open(account, number, pot, contract.time() + 3600 * hours)
        case Step.commit:
            commitment = told.part(log, _name(agreed, account), number)
            if to is not None:
                signed.write(to, number, contract.said(account, number, commitment))
                typer.echo(f"Signed: the commitment for round {number}, in {to}.")
                return
            receipt = contract.commit(account, number, commitment)
        case Step.post | Step.attest:
            _require_held(record)
            digest = result(*_payouts(log, agreed, number))
            receipt = getattr(contract, step.value)(account, number, digest)
        case Step.score:
            receipt = contract.score(account, number, *_payouts(log, agreed, number))
        case Step.cancel:
            receipt = contract.cancel(account, number)
    _tell(f"Done: {step.value}", receipt)


@app.command()
def slash(
    record: Record,
    node: Url,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What a member signed: settle commit --to.")
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="Another; by default what it did on the chain."),
    ] = None,
    key: KeyFile = None,
    confirmations: Confirmations = 12,
    most_price: MostPrice = 200,
) -> None:
    """Prove that a member has made two different commitments for one round: it loses its stake.

    Anyone may, and earns nothing: the stake goes to the next pot. Nothing else costs one; neither a
    low score, nor an incident in the record, whose signatures the chain cannot check.
    """
    from tacit.ledger.chain.signed import contradiction

    log, account, agreed = _log(record), _account(key), _agreed(record)
    contract = _settlement(_node(node, agreed.chain, confirmations, most_price), agreed, log)
    files = [file] if other is None else [file, other]
    name, number, first, second = contradiction(contract, files)
    receipt = contract.slash(account, name, number, first, second)
    _tell(f"Done: {name} has lost its stake of {contract.stake} wei", receipt)


@app.command()
def status(
    record: Record, node: Url, confirmations: Confirmations = 12, as_json: Json = False
) -> None:
    """What the chain holds: the heads that count, and how far the payments are."""
    from tacit.ledger.chain.anchor import Anchors

    log, agreed = _log(record), _agreed(record)
    at = _node(node, agreed.chain, confirmations)
    heads = Anchors(at, agreed.anchors, log.origin).heads(agreed.block)
    found: dict[str, Any] = {
        "chain": agreed.chain,
        "anchors": agreed.anchors,
        "heads": [
            {"size": each.size, "root": each.root.hex(), "block": each.block, "time": each.time}
            for each in heads
        ],
    }
    if agreed.settlement:
        contract = _settlement(at, agreed, log)
        number = contract.opened() - 1
        found["settlement"] = {
            "address": agreed.settlement,
            "round": number,
            **(contract.round(number)._asdict() if number >= 0 else {}),
            "quorum": contract.quorum,
            "balances": {n: contract.balance(a) for n, a in sorted(agreed.members.items())},
        }
    if as_json:
        print_json(_plain(found))
        return
    typer.echo(f"{len(heads)} heads are anchored at {agreed.anchors}, on chain {agreed.chain}.")
    for each in heads:
        when = datetime.fromtimestamp(each.time, UTC).isoformat(" ", "minutes")
        typer.echo(f"{each.size:8} entries  root {each.root.hex()[:16]}  {when}")
    for name, value in _plain(found.get("settlement", {})).items():
        typer.echo(f"{name:9} {value}")


def _node(url: str, chain: int, confirmations: int, most_price: int = 200) -> "Node":
    from tacit.ledger.chain.node import GWEI, Node

    return Node.at(url, chain, confirmations=confirmations, most_price=most_price * GWEI)


def _log(record: Path) -> "Log":
    from tacit.ledger.recorder import kept

    return kept(record)[1]


def _agreed(record: Path) -> "Agreed":
    from tacit.ledger.chain.agreed import FILE, Agreed

    return Agreed.read(record / FILE)


def _account(file: Path | None) -> "LocalAccount":
    """Of the key in a file, or in the environment; what was read is never told."""
    from tacit.ledger.chain.node import account_of
    from tacit.ledger.recorder import text

    if file is None:
        if KEY not in os.environ:
            raise InputError(f"--key: no file was given, and {KEY} is not in the environment")
        return account_of(os.environ[KEY], KEY)
    found = text(file, "--key")
    if file.stat().st_mode & 0o077:
        raise InputError(f"--key: others may read {file}; allowed is a file of mode 600")
    return account_of(found, str(file))


def _members(file: Path) -> dict[str, str]:
    from tacit.ledger.recorder import text
    from tacit.ledger.statement import parsed

    written = text(file, "members").encode()
    try:
        found = parsed(written)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise InputError(f"members: {file} is no JSON object of names and addresses")
    return found


def _settlement(node: "Node", agreed: "Agreed", log: "Log") -> "Settlement":
    from tacit.ledger.chain.settlement import Settlement

    if not agreed.settlement:
        raise InputError("record: no contract pays its members; see tacit chain deploy --members")
    return Settlement(node, agreed.settlement, agreed.members, log[0])


def _name(agreed: "Agreed", account: "LocalAccount") -> str:
    for name, address in agreed.members.items():
        if address == account.address:
            return name
    raise InputError(f"--key: {account.address} is none of the members' addresses")


def _payouts(log: "Log", agreed: "Agreed", number: int) -> tuple[bytes, dict[str, int]]:
    """The root, and what each of the contract's members is paid."""
    from tacit.ledger.chain.agreed import payouts

    root, paid = payouts(log, number)
    if strangers := sorted(name for name in paid.keys() - agreed.members.keys() if paid[name]):
        raise InputError(f"record: it pays {', '.join(strangers)}, with no address on the chain")
    return root, {name: paid.get(name, 0) for name in agreed.members}


def _require_held(record: Path) -> None:
    from tacit.ledger.verify import verify

    audit = verify(record)
    if audit.findings:
        raise InputError(f"record: it does not hold ({audit.findings[0]}); see tacit verify")
    if audit.beyond:
        raise InputError(
            f"record: {audit.beyond} entries at its end stand under no signed head, and nobody"
            " vouches for them yet; see tacit verify"
        )


def _tell(what: str, receipt: Any) -> None:
    gas, price = receipt["gasUsed"], receipt["effectiveGasPrice"]
    cost = gas * price / 10**18
    typer.echo(f"{what}; block {receipt['blockNumber']}, {gas:,} gas, {cost:.3g} coins.")


def _plain(value: Any) -> Any:
    """Bytes in hexadecimal; what passes the whole numbers of JSON as text."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, int) and value >= 2**53 else value
