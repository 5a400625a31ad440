"""What the parties to a record agree on: the chain, its contracts, and who is behind an address.

The file ``chain.json``, which lies with the record; and what of the record is settled there.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tacit.errors import InputError
from tacit.ledger.log import Log
from tacit.ledger.statement import Envelope, Statement, parsed

FILE = "chain.json"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True)
class Agreed:
    """Contracts of one record.

    Attributes:
        chain: its number (EIP-155).
        anchors: address of the contract that keeps the record's heads.
        block: in which that was deployed.
        settlement: address of the contract that pays the members; empty where there is none.
        members: names to addresses.
    """

    chain: int
    anchors: str
    block: int
    settlement: str = ""
    members: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Agreed":
        """What ``write`` wrote.

        Raises:
            InputError: no such file.
        """
        try:
            found = cls(**parsed(path.read_bytes()))
            addresses = [found.anchors, *found.members.values()]
            addresses += [found.settlement] if found.settlement else []
            fits = all(_ADDRESS.fullmatch(each) for each in addresses)
            fits = fits and isinstance(found.chain, int) and isinstance(found.block, int)
        except (OSError, ValueError, TypeError, AttributeError):
            fits = False
        if not fits:
            raise InputError(f"{path} does not say which contracts these are: tacit chain deploy")
        return found

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def part(log: Log, site: str, number: int) -> bytes:
    """What a site commits to for the ``number``-th settlement, from 0.

    SHA-256 of its contributions' commitments in the record since the settlement before.

    Raises:
        InputError: it has sent nothing since.
    """
    found, settled = hashlib.sha256(), 0
    sent = False
    for _, statement in _statements(log):
        settled += statement.kind == "settlement"
        mine = statement.kind == "contribution" and statement.says["site"] == site
        if mine and settled == number:
            sent = True
            found.update(statement.subjects["commitment"])
    if not sent:
        raise InputError(f"site: {site!r} has no contribution in the record for round {number}")
    return found.digest()


def payouts(log: Log, number: int) -> tuple[bytes, dict[str, int]]:
    """The record's ``number``-th settlement, from 0: the root as of then, and the payouts by name.

    Raises:
        InputError: it has no such settlement.
    """
    settled = [each for each in _statements(log) if each[1].kind == "settlement"]
    if number >= len(settled):
        raise InputError(
            f"record: it holds {len(settled)} settlements, and round {number} is to be settled"
        )
    place, statement = settled[number]
    amounts = {name: int(amount) for name, amount in statement.says["payouts"].items()}
    return log.head(place + 1).root, amounts


def _statements(log: Log) -> Iterator[tuple[int, Statement]]:
    for place, entry in enumerate(log):
        yield place, Envelope.from_bytes(entry).statement
