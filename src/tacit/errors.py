"""What can go wrong, as a tree. A message names the field, what was given and what is allowed.

TacitError
├── InputError         a field, a file or a name that cannot be used (also a ValueError)
│   └── ContractError  nodes whose data do not fit together; ``.differences`` lists each one
├── MissingDataError   a data set that is neither bundled, nor cached, nor reachable
├── CheckpointError    a checkpoint that cannot be written, read, or belongs to another experiment
├── Aborted            a secure sum that ended without one (``protection.secagg``)
├── SumError           a decoded sum that no honest nodes can have sent (``protection.codec``)
├── MessageError       received bytes that are no message, or a request that is refused
├── Refused            another member's refusal of a request (``network.messages``)
├── Unreachable        a member that does not answer (``network.transport``)
├── ChainError         a chain's node, and what it says of a transaction (``ledger.chain.node``)
└── DivergenceError    a local loss that is no longer finite; ``.node`` and ``.round`` say where
"""

import math


class TacitError(Exception):
    """Base of every error that Tacit raises on purpose.

    ``code`` never changes; docs/errors/ has a page for each.
    """

    code = "TACIT-100"


class InputError(TacitError, ValueError):
    """A field, file or name that cannot be used."""

    code = "TACIT-101"


class ContractError(InputError):
    """Nodes whose data do not fit together.

    ``differences`` holds one sentence per node and column.
    """

    code = "TACIT-102"

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        count = f"{len(differences)} difference{'s' if len(differences) != 1 else ''}"
        super().__init__(f"the nodes' data break the contract ({count}): " + "; ".join(differences))


class MissingDataError(TacitError):
    """A data set that is neither bundled, nor cached, nor reachable."""

    code = "TACIT-103"


class CheckpointError(TacitError):
    """A checkpoint that cannot be written, read, or belongs to another experiment."""

    code = "TACIT-104"


class MessageError(TacitError):
    """Received bytes that are no message, or a request that their receiver refuses."""

    code = "TACIT-105"


class DivergenceError(TacitError):
    """A local loss that is no longer finite."""

    code = "TACIT-106"

    def __init__(self, node: str, round: int) -> None:
        self.node, self.round = node, round
        super().__init__(
            f"training diverged: the loss of node {node!r} is not finite in round {round};"
            " try a smaller training.lr or training.clip_norm, in another folder if a checkpoint"
            " of an earlier round is to be kept"
        )


def require(condition: bool, field: str, given: object, allowed: str) -> None:
    """Refuse a setting with one sentence."""
    if not condition:
        raise InputError(f"{field}: {given!r} was given; allowed is {allowed}")


def require_whole(least: int, field: str, given: object, *, none: bool = False) -> None:
    """Refuse what is not a whole number from ``least`` on; ``none``: None will do, too."""
    fits = type(given) is int and given >= least
    allowed = f"a whole number, {least} or more{', or None' if none else ''}"
    require(fits or (none and given is None), field, given, allowed)


def require_number(
    field: str,
    given: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    none: bool = False,
) -> None:
    """Refuse what is not a finite number within the bounds; ``none``: None will do, too."""
    fits = (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and above < given < below
        and least <= given <= most
    )
    bounds = {"above": above, "at least": least, "at most": most, "below": below}
    within = " and ".join(f"{word} {x:g}" for word, x in bounds.items() if math.isfinite(x))
    allowed = f"a number {within or 'that is finite'}{', or None' if none else ''}"
    require(fits or (none and given is None), field, given, allowed)
