"""Training rows with wrong labels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from tacit.attacks.base import DataAttack
from tacit.attacks.rows import some
from tacit.data.federation import Federation
from tacit.errors import InputError, require, require_number, require_whole


@dataclass(frozen=True, kw_only=True)
class LabelFlip(DataAttack):
    """y -> M - 1 - y for each of M labels; or, targeted, source -> target alone.

    Where M is odd, the middle label stays. A targeted flip succeeds on the test rows of the source
    label that a model answers with the target.

    Source: Biggio, Nelson, Laskov, "Poisoning attacks against support vector machines", ICML 2012;
    M - 1 - y: Fang, Cao, Jia, Gong, "Local model poisoning attacks to Byzantine-robust federated
    learning", USENIX Security 2020, section 5.1; targeted: Tolpegin, Truex, Gursoy, Liu, "Data
    poisoning attacks against federated learning systems", ESORICS 2020.

    Attributes:
        source: the label that is flipped; None: all.
        target: what it becomes; given where ``source`` is.
        ratio: share of the rows with such labels that are flipped, above 0 and up to 1.

    Raises:
        InputError: a setting out of its range, or one of source and target without the other.
    """

    source: int | None = None
    target: int | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        require_number("attack.ratio", self.ratio, above=0, most=1)
        require_whole(0, "attack.source", self.source, none=True)
        require_whole(0, "attack.target", self.target, none=True)
        if self.source is None:
            require(self.target is None, "attack.target", self.target, "None without a source")
        else:
            allowed = f"a label other than the source {self.source}"
            require(self.target not in (None, self.source), "attack.target", self.target, allowed)

    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        hit = torch.ones_like(y, dtype=torch.bool) if self.source is None else y == self.source
        rows = some(hit.nonzero().squeeze(1), self.ratio, rng)
        flipped = y.clone()
        flipped[rows] = classes - 1 - y[rows] if self.target is None else self.target
        return x, flipped

    def probe(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        if self.source is None or self.target is None:
            return None
        return _aimed(x, y, y == self.source, self.target)

    def fit(self, data: Federation) -> None:
        need_labels(data, self, source=self.source, target=self.target)


@dataclass(frozen=True, kw_only=True)
class Semantic(DataAttack):
    """Rows that share a natural property get the attacker's label; their inputs stay as they are.

    Succeeds on the test rows with that property which a model answers with the target. Malicious
    nodes that hold no such rows do no harm.

    Source: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to backdoor federated learning",
    AISTATS 2020, section 4.1.

    Attributes:
        rows: which rows: those of a label, or where a function of (x (N, ...), y (N,)) gives True
            in an (N,) bool tensor; N may be 0.
        target: the label that they get.

    Raises:
        InputError: a target equal to the label.
    """

    rows: int | Callable[[Tensor, Tensor], Tensor] = 1
    target: int = 0

    def __post_init__(self) -> None:
        known = callable(self.rows) or type(self.rows) is int
        require(known, "attack.rows", self.rows, "a label, or a function of x and y")
        require_whole(0, "attack.target", self.target)
        allowed = f"a label other than {self.rows}, the rows'"
        require(self.target != self.rows, "attack.target", self.target, allowed)

    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        return x, y.masked_fill(self._hit(x, y), self.target)

    def probe(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        return _aimed(x, y, self._hit(x, y), self.target)

    def fit(self, data: Federation) -> None:
        label = None if callable(self.rows) else self.rows
        need_labels(data, self, rows=label, target=self.target)
        x, y = data.train.x, data.train.y
        hit = self._hit(x, y)
        if not isinstance(hit, Tensor) or hit.dtype != torch.bool or hit.shape != y.shape:
            raise InputError(
                f"attack.rows: the function {self.rows!r} must return one bool for each of"
                f" {len(y)} rows, as a tensor"
            )

    def _hit(self, x: Tensor, y: Tensor) -> Tensor:
        return self.rows(x, y) if callable(self.rows) else y == self.rows


def need_labels(data: Federation, attack: DataAttack, **labels: int | None) -> None:
    """Refuse tasks without labels, and settings that are none of the data's labels (InputError)."""
    if data.task != "classification":
        raise InputError(
            f"attack: {type(attack).__name__} changes labels, but {data.name} is a {data.task};"
            " use NoisyInputs, Duplicates, or an attack on updates"
        )
    for name, label in labels.items():
        allowed = f"a label from 0 to {data.classes - 1}"
        require(label is None or 0 <= label < data.classes, f"attack.{name}", label, allowed)


def _aimed(x: Tensor, y: Tensor, hit: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The rows that were hit and have another label, with the target as theirs."""
    rows = hit & (y != target)
    return x[rows], torch.full_like(y[rows], target)
