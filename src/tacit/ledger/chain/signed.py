"""A member's signed commitment in a file, which it hands to others beside the chain, or before.

Two of them are what costs a stake, if they are different ones for one round. The records' own
signatures are Ed25519, which the EVM cannot check: an incident in the record moves no stake.
"""

import json
from pathlib import Path

from tacit.errors import InputError
from tacit.ledger.chain.settlement import Said, Settlement
from tacit.ledger.recorder import text
from tacit.ledger.statement import parsed


def write(path: Path, number: int, said: Said) -> None:
    """Put a commitment for a round into a new file.

    Raises:
        InputError: there is a file already.
    """
    found = {"round": number, "commitment": said.commitment.hex(), "by": said.signature.hex()}
    try:
        with path.open("x") as file:
            file.write(json.dumps(found) + "\n")
    except FileExistsError:
        raise InputError(f"--to: {path} is there already; give a new one") from None


def read(path: Path) -> tuple[int, Said]:
    """The round, and what a member has signed for it.

    Raises:
        InputError: no such file.
    """
    written = text(path, "FILE").encode()
    try:
        found = parsed(written)
        number, said = (
            found["round"],
            Said(*(bytes.fromhex(found[k]) for k in ("commitment", "by"))),
        )
        fits = type(number) is int and 0 <= number < 2**256
        fits = fits and (len(said.commitment), len(said.signature)) == (32, 65)
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits:
        raise InputError(
            f"FILE: {path} holds no signed commitment, as tacit chain settle commit --to writes it"
        )
    return number, said


def contradiction(contract: Settlement, files: list[Path]) -> tuple[str, int, Said, Said]:
    """The member, the round, and two different commitments of the one for the other.

    Args:
        files: two; or one, to be held against what the member has committed to on the chain.

    Raises:
        InputError: they are no proof.
        NodeDown, ChainError: as in ``Node.asked``.
    """
    found = [read(path) for path in files]
    names = [contract.signer(number, said) for number, said in found]
    for path, name in zip(files, names, strict=True):
        if name is None:
            raise InputError(f"FILE: {path} is signed by no member, or for another contract")
    (number, first), name = found[0], names[0]
    assert name is not None
    if len(found) == 2:
        (other, second), too = found[1], names[1]
        if (other, too) != (number, name):
            raise InputError(
                f"FILE: {name} has signed one for round {number}, and {too} one for round {other};"
                " it takes two of one member for one round"
            )
    else:
        second = contract.committed(name, number)
        if not any(second.commitment):
            raise InputError(
                f"FILE: {name} has committed to nothing for round {number} on the chain; give a"
                " second file that it has signed"
            )
    if first.commitment == second.commitment:
        raise InputError(f"FILE: {name} has committed to the same twice, which contradicts nothing")
    return name, number, first, second
