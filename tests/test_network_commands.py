"""What people give to the commands of the network by mistake is named in one sentence."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from network_parties import joined
from tacit.cli import app
from tacit.network.authority import Authority

FILE = """
import tacit
from torch import nn

experiment = tacit.Experiment(
    data=tacit.data.at_sites(["north", "south"], target="y", columns=["a"], labels=[0, 1]),
    model=lambda: nn.Linear(1, 2), loss=nn.functional.cross_entropy,
    rounds=1, training=tacit.SGD(lr=0.1),
)
"""


def sentence(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("tacit: ")]
    (line,) = lines
    assert line.endswith("]")
    return line


@pytest.mark.parametrize(
    "words",
    [
        ("coordinator", "--patience", "-4"),
        ("coordinator", "--deadline", "0"),
        ("coordinator", "--quorum", "0"),
        ("peer", "--patience", "nan"),
        ("swarm", "--stall", "inf"),
        ("swarm", "--deadline", "-1"),
        ("swarm", "--patience", "0"),
    ],
)
def test_numbers_that_cannot_be(words: tuple[str, str, str]) -> None:
    command, option, given = words
    table = () if command == "coordinator" else ("--data", "north.csv")
    said = sentence(command, "f.py", *table, "--listen", "127.0.0.1:1", option, given)
    assert said.startswith(f"tacit: {option}: ")
    assert "allowed is" in said


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--quorum", "3", "quorum: 3 was given; allowed is 2, the sites, or less"),
        ("--database", "foo://u:geheim@h/d", "--database: its URL cannot be used"),
        ("--listen", "127.0.0.1:99999", "address: '127.0.0.1:99999' was given"),
    ],
)
def test_what_a_coordinator_cannot_use(option: str, given: str, said: str, tmp_path: Path) -> None:
    home = Authority.init("hearts", tmp_path / "hub", ["127.0.0.1:7447"]).home
    (tmp_path / "f.py").write_text(FILE)
    listen = () if option == "--listen" else ("--listen", "127.0.0.1:0")
    found = sentence(
        "coordinator", str(tmp_path / "f.py"), "--home", str(home), "--folder",
        str(tmp_path / "run"), *listen, option, given,
    )  # fmt: skip
    assert said in found
    assert "geheim" not in found


def test_a_token_with_one_wrong_character_is_no_token(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "hub", ["127.0.0.1:7447"])
    token = authority.invite("north").to_text()
    for at in range(7, len(token) - 1, 40):  # the last one may hold bits that say nothing
        wrong = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert "this is no token" in sentence("node", "join", wrong)


def test_a_token_names_no_other_folder(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "hub", ["127.0.0.1:7447"])
    token = replace(authority.invite("north"), federation="../..").to_text()
    assert "token: federation: '../..' was given" in sentence("node", "join", token)


def test_a_coordinator_with_the_keys_of_a_site(tmp_path: Path) -> None:
    authority = Authority.init("hearts", tmp_path / "hub", ["127.0.0.1:7447"])
    home = joined(authority, tmp_path / "north", "north").folder
    (tmp_path / "f.py").write_text(FILE)
    said = sentence(
        "coordinator", str(tmp_path / "f.py"), "--home", str(home), "--folder",
        str(tmp_path / "run"), "--listen", "127.0.0.1:0",
    )  # fmt: skip
    assert f"home: {home} was given, with the keys of 'north', a site" in said
    assert not (tmp_path / "run").exists()
