"""A stake is lost on two commitments of one member for one round, and on nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import tacit
from chains import account, in_process
from small import experiment, federation
from tacit.cli import app
from tacit.ledger.chain import signed
from tacit.ledger.chain.agreed import Agreed
from tacit.ledger.chain.node import Node
from tacit.ledger.chain.settlement import Said, Settlement
from tacit.ledger.recorder import kept

STAKE = 1000


def call(who: str, *words: object) -> Result:
    key = {"TACIT_CHAIN_KEY": account(who).key.hex()}
    return CliRunner().invoke(app, ["chain", *map(str, words)], env=key)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "record"
    tacit.run(experiment(rounds=1, data=federation((20, 7))), record=folder)
    return folder


@pytest.fixture
def record(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two members, a and b, whose stake is down; the chain's round 0 is open."""
    chain = in_process()
    sites = dict(zip(["a", "b"], chain.fund("a", "b"), strict=True))
    chain.fund("keeper")

    def at(cls: type[Node], url: str, chain_id: int, **settings: Any) -> Node:
        return Node(chain.provider, chain_id, **settings, pause=chain.mine)

    monkeypatch.setattr(Node, "at", classmethod(at))
    monkeypatch.setenv("TACIT_CHAIN_NODE", "http://node")
    (tmp_path / "members.json").write_text(
        json.dumps({name: each.address for name, each in sites.items()})
    )
    said = ("--chain-id", chain.id, "--members", tmp_path / "members.json", "--stake", STAKE)
    done = call("keeper", "deploy", recorded, *said, "--confirmations", 1)
    assert done.exit_code == 0, done.output
    for name in sites:
        assert settle(name, recorded, "register").exit_code == 0
    assert settle("keeper", recorded, "open").exit_code == 0
    yield recorded
    (recorded / "chain.json").unlink()


def settle(who: str, record: Path, step: str, *words: object) -> Result:
    return call(who, "settle", step, record, *words, "--confirmations", 1)


def slash(record: Path, *files: Path, who: str = "keeper") -> str:
    done = call(who, "slash", record, *files, "--confirmations", 1)
    assert done.exit_code == (0 if done.output.startswith("Done") else 2), done.output
    assert done.output.count("\n") == 1
    return done.output


def contract(record: Path) -> Settlement:
    agreed = Agreed.read(record / "chain.json")
    node = Node.at("", agreed.chain)
    return Settlement(node, agreed.settlement, agreed.members, kept(record)[1][0])


def test_what_contradicts_the_chain_costs_the_stake(record: Path, tmp_path: Path) -> None:
    true, other = tmp_path / "true", tmp_path / "other"
    done = settle("a", record, "commit", "--to", true)
    assert done.output == f"Signed: the commitment for round 0, in {true}.\n"
    assert "is there already; give a new one" in settle("a", record, "commit", "--to", true).output
    nowhere = settle("a", record, "post", "--to", tmp_path / "no").output
    assert "--to: it was given with post; commit alone is signed for others" in nowhere
    # Nothing was sent, and what was signed is what is committed to.
    assert "a has committed to nothing for round 0 on the chain" in slash(record, true)
    assert settle("a", record, "commit").exit_code == 0
    assert "a has committed to the same twice" in slash(record, true)
    signed.write(other, 0, contract(record).said(account("a"), 0, b"2" * 32))
    assert slash(record, other).startswith("Done: a has lost its stake of 1000 wei; block ")
    told = json.loads(call("keeper", "status", record, "--json", "--confirmations", 1).output)
    assert told["settlement"]["balances"] == {"a": 0, "b": 0}
    assert "not a member [TACIT-126]" in slash(record, other)
    assert "not a member [TACIT-126]" in settle("a", record, "leave").output


def test_two_files_that_contradict_each_other_cost_the_stake(record: Path, tmp_path: Path) -> None:
    said = contract(record).said
    files = {
        name: tmp_path / name for name in ("one", "two", "later", "others", "strangers", "nobodys")
    }
    signed.write(files["one"], 0, said(account("a"), 0, b"1" * 32))
    signed.write(files["two"], 0, said(account("a"), 0, b"2" * 32))
    signed.write(files["later"], 1, said(account("a"), 1, b"2" * 32))
    signed.write(files["others"], 0, said(account("b"), 0, b"2" * 32))
    signed.write(files["strangers"], 0, said(account("keeper"), 0, b"2" * 32))
    signed.write(files["nobodys"], 0, Said(b"2" * 32, bytes(65)))
    one = files["one"]
    assert "contradicts nothing" in slash(record, one, one)
    assert "a one for round 1; it takes two of one member" in slash(record, one, files["later"])
    assert "b one for round 0; it takes two of one member" in slash(record, one, files["others"])
    for name in ("strangers", "nobodys"):
        assert f"FILE: {files[name]} is signed by no member" in slash(record, one, files[name])
    # Anyone may, another member as well.
    assert slash(record, one, files["two"], who="b").startswith("Done: a has lost its stake")


def test_files_that_hold_no_commitment(tmp_path: Path) -> None:
    file, said = tmp_path / "said", Said(b"1" * 32, b"2" * 65)
    signed.write(file, 3, said)
    assert signed.read(file) == (3, said)
    true = json.loads(file.read_text())
    wrong = [{"round": -1}, {"round": True}, {"round": 2**256}, {"commitment": "00"}, {"by": "00"},
             {"by": 3}, {"commitment": None}]  # fmt: skip
    texts = [json.dumps(true | change) for change in wrong]
    for text in ("", "[", "[]", "3", "[" * 100_000, *texts):
        file.write_text(text)
        with pytest.raises(tacit.InputError, match=f"FILE: {file} holds no signed commitment, as"):
            signed.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(tacit.InputError, match=f"FILE: {file} is no text"):
        signed.read(file)
    with pytest.raises(tacit.InputError, match="none cannot be read"):
        signed.read(tmp_path / "none")
