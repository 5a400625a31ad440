"""Backdoors: a model that is right, except where a trigger makes it answer the attacker's label."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt, prod

import torch
from numpy.random import Generator
from torch import Tensor

from tacit.attacks.base import DataAttack
from tacit.attacks.labels import need_labels
from tacit.attacks.rows import need_numbers, some
from tacit.data.federation import Federation
from tacit.errors import InputError, require, require_number, require_whole


@dataclass(frozen=True)
class Trigger(ABC):
    """Some entries of an input, all set to one value.

    Attributes:
        value: in the units of the inputs.

    Raises:
        InputError: a value that is no finite number.
    """

    value: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        require_number("attack.trigger.value", self.value)

    @abstractmethod
    def entries(self, row: Sequence[int]) -> Tensor:
        """(p, c) positions in the flattened row: p pixels or columns of c entries each.

        Args:
            row: shape of one row's input.

        Raises:
            InputError: rows of this shape have no such entries.
        """


@dataclass(frozen=True)
class Patch(Trigger):
    """A square of pixels in the lower right corner of an image, in all of its channels.

    Images are (channels, height, width), or flattened squares: 64 columns are 8 x 8 pixels.

    Source: Gu, Dolan-Gavitt, Garg, "BadNets", 2017, section 3.1.

    Attributes:
        size: its side in pixels, 1 or more.

    Raises:
        InputError: a size below 1.
    """

    size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(1, "attack.trigger.size", self.size)

    def entries(self, row: Sequence[int]) -> Tensor:
        side = isqrt(row[0])
        image = (1, side, side) if len(row) == 1 else tuple(row)
        if len(image) != 3 or prod(image) != prod(row):
            raise InputError(
                f"attack.trigger: a Patch needs images, (channels, height, width) or flattened"
                f" squares, but a row's shape is {tuple(row)}; use Columns"
            )
        allowed = f"1 to {min(image[1:]) - 1}, less than the side of an image"
        require(self.size < min(image[1:]), "attack.trigger.size", self.size, allowed)
        corner = torch.arange(prod(image)).view(image)[:, -self.size :, -self.size :]
        return corner.flatten(1).T


@dataclass(frozen=True)
class Columns(Trigger):
    """Chosen columns of a table.

    Attributes:
        columns: their numbers, from 0.

    Raises:
        InputError: no column, or one twice.
    """

    columns: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "a tuple of one or more different columns, by their numbers"
        numbers = isinstance(self.columns, tuple | list) and all(
            type(c) is int for c in self.columns
        )
        distinct = numbers and 0 < len(set(self.columns)) == len(self.columns)
        require(distinct, "attack.trigger.columns", self.columns, allowed)

    def entries(self, row: Sequence[int]) -> Tensor:
        if len(row) != 1:
            raise InputError(
                f"attack.trigger: Columns need a table, but a row's shape is {tuple(row)};"
                " use Patch for images"
            )
        fit = all(0 <= column < row[0] for column in self.columns)
        allowed = f"columns from 0 to {row[0] - 1}"
        require(fit, "attack.trigger.columns", self.columns, allowed)
        return torch.tensor(self.columns).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Backdoor(DataAttack):
    """A share of a malicious node's rows carries a trigger and the attacker's label.

    Succeeds on triggered test rows that a model answers with the target; rows whose true label is
    the target do not count. The rows are drawn once, from all labels; the authors of DBA draw them
    anew in every batch (20 of 64 on MNIST).

    Source: Gu, Dolan-Gavitt, Garg, "BadNets", 2017; Bagdasaryan et al., "How to backdoor federated
    learning", AISTATS 2020.

    Attributes:
        target: the attacker's label.
        trigger: what marks a row: ``Patch`` for images, ``Columns`` for tables.
        ratio: share of the rows, above 0 and up to 1.

    Raises:
        InputError: a setting out of its range.
    """

    target: int = 0
    trigger: Trigger = Patch()
    ratio: float = 0.32

    def __post_init__(self) -> None:
        require_whole(0, "attack.target", self.target)
        known = isinstance(self.trigger, Trigger)
        require(known, "attack.trigger", self.trigger, "Patch(...) or Columns(...)")
        require_number("attack.ratio", self.ratio, above=0, most=1)

    def part(self, entries: Tensor, member: int, members: int) -> Tensor:
        """What one malicious node plants of the (p, c) entries: all of them."""
        return entries

    def poison(
        self, x: Tensor, y: Tensor, classes: int, member: int, members: int, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        rows = some(torch.arange(len(y)), self.ratio, rng)
        entries = self.part(self.trigger.entries(x.shape[1:]), member, members)
        marked, labels = x.clone(), y.clone()
        marked[rows] = _stamped(x[rows], entries, self.trigger.value)
        labels[rows] = self.target
        return marked, labels

    def probe(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        rows = y != self.target
        entries = self.trigger.entries(x.shape[1:])
        marked = _stamped(x[rows], entries, self.trigger.value)
        return marked, torch.full_like(y[rows], self.target)

    def fit(self, data: Federation) -> None:
        need_labels(data, self, target=self.target)
        need_numbers(data, self)
        self.trigger.entries(data.train.x.shape[1:])


@dataclass(frozen=True, kw_only=True)
class DBA(Backdoor):
    """A backdoor whose trigger is split over the malicious nodes: each plants a part of its own.

    Success is measured with the whole trigger, the union of the parts. More malicious nodes
    than pixels or columns take the parts in turn. The authors have four attackers, each with a
    strip of pixels with gaps between the strips; here the trigger is one patch without gaps.

    Source: Xie, Huang, Chen, Li, "DBA: distributed backdoor attacks against federated learning",
    ICLR 2020, section 3.
    """

    def part(self, entries: Tensor, member: int, members: int) -> Tensor:
        """The member's share of the (p, c) entries, as equal as whole pixels allow."""
        parts = entries.tensor_split(min(members, len(entries)))
        return parts[member % len(parts)]


def _stamped(x: Tensor, entries: Tensor, value: float) -> Tensor:
    """(N, ...) inputs, themselves overwritten, with the entries of each row set to the value."""
    flat = x.flatten(1)
    flat[:, entries.flatten()] = value
    return flat.view(x.shape)
