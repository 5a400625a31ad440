"""The commands of the chain: a record anchored, compared, and left alone by a chain that fails."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import tacit
from chains import Chain, account, anvil, in_process
from small import experiment, federation
from tacit.cli import app
from tacit.engine.scoring import contributions
from tacit.ledger import records
from tacit.ledger.chain.agreed import Agreed, part, payouts
from tacit.ledger.chain.anchor import Anchors
from tacit.ledger.chain.node import Node
from tacit.ledger.log import Log
from tacit.ledger.note import Checkpoint
from tacit.ledger.recorder import kept
from tacit.ledger.statement import Envelope, signed


def call(*words: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env=environment)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "record"
    tacit.run(experiment(rounds=2), record=folder)
    return folder


@pytest.fixture
def record(recorded: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    return Path(shutil.copytree(recorded, tmp_path / "record"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(account("keeper").key.hex())
    return file


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    """In this process, wherever a command asks for a node by its address."""
    chain = in_process()
    chain.fund("keeper")

    def at(cls: type[Node], url: str, chain_id: int, **settings: int) -> Node:
        assert url == "http://node"
        return Node(chain.provider, chain_id, **settings, pause=chain.mine)

    monkeypatch.setattr(Node, "at", classmethod(at))
    monkeypatch.setenv("TACIT_CHAIN_NODE", "http://node")
    return chain


@pytest.fixture
def anchored(chain: Chain, record: Path, key: Path) -> Path:
    """A record whose head is on the chain."""
    for words in (("deploy", record, "--chain-id", chain.id), ("anchor", record)):
        done = call("chain", *words, "--key", key)
        assert done.exit_code == 0, done.output
    return record


def test_a_head_is_anchored_and_found_again_by_who_verifies(anchored: Path, key: Path) -> None:
    size = json.loads(call("verify", anchored, "--json").output)["size"]
    found = json.loads(call("chain", "status", anchored, "--json").output)
    assert [head["size"] for head in found["heads"]] == [size]
    assert f"{size} entries  root" in call("chain", "status", anchored).output
    done = call("verify", anchored, "--anchors", anchored / "chain.json")
    assert done.exit_code == 0, done.output
    assert f"1, the last of {size} entries" in done.output
    again = call("chain", "anchor", anchored, "--key", key)
    assert again.output == f"The head of {size} entries is anchored already.\n"


def test_a_record_that_was_made_anew_is_not_the_anchored_one(
    anchored: Path, tmp_path: Path, key: Path
) -> None:
    # Whoever keeps all keys can write another record that holds by itself.
    anew = tmp_path / "anew"
    tacit.run(experiment(rounds=2), record=anew)
    (anew / "chain.json").write_text((anchored / "chain.json").read_text())
    assert call("verify", anew).exit_code == 0
    done = call("verify", anew, "--anchors", anew / "chain.json")
    assert done.exit_code == 1
    assert "FAIL  anchored heads: its first" in done.output
    assert "entries were rewritten since" in done.output
    refused = call("chain", "anchor", anew, "--key", key)
    assert refused.exit_code == 2
    assert "[TACIT-120]" in refused.output


def test_a_record_that_was_cut_short_is_not_the_anchored_one(chain: Chain, anchored: Path) -> None:
    agreed, origin = Agreed.read(anchored / "chain.json"), kept(anchored)[1].origin
    longer = Checkpoint(origin, 1000, b"r" * 32)
    Anchors(chain.node(), agreed.anchors, origin).anchor(account("keeper"), longer)
    for _ in range(11):
        chain.mine()
    done = call("verify", anchored, "--anchors", anchored / "chain.json")
    assert done.exit_code == 1
    assert "it was rolled back: 1000 entries were anchored" in done.output


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if not path.name.endswith(("-shm", "-wal"))
    }


def test_a_dead_node_leaves_the_record_and_the_run_as_they_are(
    record: Path, key: Path, tmp_path: Path
) -> None:
    (record / "chain.json").write_text(
        json.dumps({"chain": 1, "anchors": "0x" + "11" * 20, "block": 0})
    )
    before, dead = contents(record), "http://127.0.0.1:9"
    done = call("chain", "anchor", record, "--key", key, "--node", dead)
    assert done.exit_code == 2
    assert done.output == (
        "tacit: the chain's node 127.0.0.1 does not answer (ConnectionError) [TACIT-121]\n"
    )
    assert contents(record) == before
    result = tacit.run(experiment(rounds=2), record=record)
    assert len(result.metrics) == 2
    assert call("verify", record).exit_code == 0


def test_neither_training_nor_verifying_needs_what_the_chain_needs(record: Path) -> None:
    program = (
        # None makes an import fail.
        "import sys; sys.modules |= dict.fromkeys(('web3', 'eth_account', 'vyper'));"
        "import tacit; from tacit.cli import app; app(['verify', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", program, record], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_keys_are_made_private_and_no_other_is_taken(
    chain: Chain, record: Path, tmp_path: Path
) -> None:
    made = call("chain", "key", tmp_path / "new")
    assert made.output.startswith("0x")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    secret = (tmp_path / "new").read_text().strip()
    assert secret not in made.output
    assert call("chain", "key", tmp_path / "new").exit_code == 2
    deploy = ("chain", "deploy", record, "--chain-id", chain.id)
    poor = call(*deploy, TACIT_CHAIN_KEY=secret)
    assert "[TACIT-125]" in poor.output
    assert made.output.strip() in poor.output
    assert secret not in poor.output
    (tmp_path / "new").chmod(0o640)
    assert "allowed is a file of mode 600" in call(*deploy, "--key", tmp_path / "new").output
    assert "TACIT_CHAIN_KEY is not in the environment" in call(*deploy).output
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "new").write_bytes(b"\xff\x00" * 16)
    for file, why in (
        ("new", "is no text"),
        ("none", "cannot be read (No such file or directory)"),
    ):
        done = call(*deploy, "--key", tmp_path / file)
        assert done.output == f"tacit: --key: {tmp_path / file} {why} [TACIT-101]\n"
    wrong = call(*deploy, TACIT_CHAIN_KEY=secret[:-1] + "g")
    assert "TACIT_CHAIN_KEY holds no key of 64 hex digits" in wrong.output
    assert secret[:20] not in wrong.output


def test_the_agreed_chain_is_the_only_one(chain: Chain, anchored: Path, key: Path) -> None:
    file = anchored / "chain.json"
    again = call("chain", "deploy", anchored, "--chain-id", chain.id, "--key", key)
    assert "names its contracts already" in again.output
    other = call("chain", "deploy", anchored, "--chain-id", 1, "--key", key)
    assert "chain-id: 1 was given" in other.output
    file.write_text(file.read_text().replace(str(chain.id), "5"))
    done = call("chain", "status", anchored)
    assert done.exit_code == 2
    assert "is on chain 131277322940537, and chain 5 is meant" in done.output
    one = '{"chain": 1, "anchors": "0x17", "block": 0}'
    for text in ("{}", "[", one.replace('"0x17"', "1"), one, "[1, 2, 3]", "[" * 100_000):
        file.write_text(text)
        assert "does not say which contracts these are" in call("chain", "status", anchored).output


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of four sites, whose quorum is three, that ends with a settlement."""
    folder = tmp_path_factory.mktemp("scored") / "record"
    plan = experiment(rounds=1, data=federation((20, 7, 9, 30)))
    contributions(plan, record=folder, pot=10**18)
    return folder


@pytest.mark.slow
def test_a_settlement_of_the_record_is_paid_step_by_step(
    chain: Chain, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Path(shutil.copytree(scored, tmp_path / "record"))
    says = [Envelope.from_bytes(entry).statement for entry in kept(record)[1]][-1].says
    owed = {name: int(amount) for name, amount in says["payouts"].items()}
    sites = dict(zip(sorted(owed), chain.fund(*sorted(owed)), strict=True))
    members = tmp_path / "members.json"
    members.write_text(json.dumps({name: each.address for name, each in sites.items()}))

    def settle(step: str, name: str, *words: object) -> str:
        key = account(name).key.hex()
        once = ("--confirmations", 1)
        return call("chain", "settle", step, record, *words, *once, TACIT_CHAIN_KEY=key).output

    deploy = ("chain", "deploy", record, "--chain-id", chain.id, "--members", members)
    done = call(*deploy, "--stake", 5, TACIT_CHAIN_KEY=account("keeper").key.hex())
    assert done.exit_code == 0, done.output
    first, *others = sites
    for name in sites:
        assert "Done: register" in settle("register", name)
    assert "no round was opened yet" in settle("commit", first)
    assert "Done: open" in settle("open", "keeper", "--pot", 10**18)
    for name in sites:
        assert "Done: commit" in settle("commit", name)
    assert "is none of the members' addresses" in settle("commit", "keeper")
    assert "only the keeper posts" in settle("post", first)
    assert "Done: post" in settle("post", "keeper")
    assert "fewer than the quorum" in settle("score", "keeper")
    for name in others:
        assert "Done: attest" in settle("attest", name)
    assert "Done: score" in settle("score", first)
    found = json.loads(call("chain", "status", record, "--json", "--confirmations", 1).output)
    told = {name: int(amount) for name, amount in found["settlement"]["balances"].items()}
    assert told == owed
    assert sum(owed.values()) == 10**18
    for name, each in sites.items():
        before = chain.web3.eth.get_balance(each.address)
        said = settle("withdraw", name)
        if owed[name]:
            spent = int(re.search(r"([\d,]+) gas", said)[1].replace(",", ""))  # type: ignore[index]
            gained = chain.web3.eth.get_balance(each.address) - before
            assert gained > owed[name] - spent * 10**10  # at less than 10 gwei
        else:
            assert "nothing is owed" in said
    assert "holds 1 settlements, and round 1" in settle_next(settle)


def settle_next(settle: Callable[..., str]) -> str:
    assert "Done: open" in settle("open", "keeper", "--hours", 1)
    return settle("post", "keeper")


def test_a_round_of_the_chain_is_about_what_came_since_the_settlement_before(
    tmp_path: Path,
) -> None:
    def sent(site: str, word: bytes) -> bytes:
        return signed(records.contribution(0, site, bytes(32), word * 32, 10, ""), {})

    paid = [signed(records.settlement(bytes(32), 0, pot, {"a": pot}), {}) for pot in (5, 2**60)]
    log = Log(tmp_path / "log.db", "tacit/0")
    log.append([sent("a", b"1"), sent("b", b"2"), sent("a", b"3"), paid[0]])
    log.append([sent("a", b"4"), paid[1]])
    assert part(log, "a", 0) == hashlib.sha256(b"1" * 32 + b"3" * 32).digest()
    assert part(log, "a", 1) == hashlib.sha256(b"4" * 32).digest()
    with pytest.raises(tacit.InputError, match="'b' has no contribution in the record for round 1"):
        part(log, "b", 1)
    assert payouts(log, 0) == (log.head(4).root, {"a": 5})
    assert payouts(log, 1) == (log.head(6).root, {"a": 2**60})
    log.close()


def test_a_member_attests_what_its_own_record_says_and_nothing_else(
    chain: Chain, scored: Path, tmp_path: Path
) -> None:
    keepers, site = (Path(shutil.copytree(scored, tmp_path / who)) for who in ("keeper", "site"))
    names = ["a", "b"]
    (site / "members.json").write_text(
        json.dumps(
            {name: each.address for name, each in zip(names, chain.fund(*names), strict=True)}
        )
    )
    key = {"TACIT_CHAIN_KEY": account("keeper").key.hex()}
    deploy = ("--chain-id", chain.id, "--members", site / "members.json")
    assert call("chain", "deploy", keepers, *deploy, **key).exit_code == 0
    said = json.loads((keepers / "chain.json").read_text())
    said["members"] |= {"a": said["members"]["b"], "b": said["members"]["a"]}
    (site / "chain.json").write_text(json.dumps(said))
    refused = call("chain", "settle", "register", site, **key)
    assert "made for another record, or for other members [TACIT-122]" in refused.output
    (site / "chain.json").write_text((keepers / "chain.json").read_text())
    call("chain", "settle", "open", keepers, **key)
    seed = json.loads((site / "keys.json").read_text())["member keeper"]
    by = {"keeper": Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))}
    with closing(Log(site / "log.db", "")) as log:
        said = [Envelope.from_bytes(entry).statement for entry in log]
        model = next(each.subjects["model"] for each in said if each.kind == "aggregate")
        log.append([signed(records.evaluation(0, model, bytes(32), "accuracy", 50), by)])
    refused = call("chain", "settle", "attest", site, **key)
    assert refused.exit_code == 2
    assert "record: 1 entries at its end stand under no signed head" in refused.output
    with closing(sqlite3.connect(site / "log.db")) as db, db:
        db.execute("UPDATE entries SET entry = zeroblob(9) WHERE place = 3")
    refused = call("chain", "settle", "attest", site, **key)
    assert refused.exit_code == 2
    assert "record: it does not hold (entry 3" in refused.output


@pytest.fixture
def real() -> Iterator[Chain]:
    with anvil() as chain:
        yield chain


def test_a_real_node_is_anchored_to_over_its_own_protocol(
    real: Chain, record: Path, key: Path
) -> None:
    real.fund("keeper")
    at = {"TACIT_CHAIN_NODE": real.url}
    once = ("--key", key, "--confirmations", 1)
    for words in (("deploy", record, "--chain-id", real.id), ("anchor", record)):
        done = call("chain", *words, *once, **at)
        assert done.exit_code == 0, done.output
    found = call("verify", record, "--anchors", record / "chain.json", **at)
    assert re.search(r"anchored heads +none\n", found.output)  # twelve blocks have to lie on it
    for _ in range(11):
        real.mine()
    found = call("verify", record, "--anchors", record / "chain.json", **at)
    assert re.search(r"anchored heads +1, the last of \d+ entries\n", found.output)
    assert found.exit_code == 0
