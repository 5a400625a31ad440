"""Canary nodes beside an experiment's own: what its protections of updates give away of them."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.auditing.canaries import Canaries
from tacit.auditing.leak import log_ratio, rate
from tacit.engine.protect import Protector
from tacit.engine.run import Session
from tacit.experiment import Experiment
from tacit.protection.codec import Codec
from tacit.randomness import generator
from tacit.training.plan import Ints

# What canaries send, in clipping norms: a build that does not clip must give itself away.
LENGTH = 10
# Of a score without noise, beside which that of any other is nothing.
_CERTAIN = 1e6


class NodeSession(Session):
    """A run whose receivers also hear canaries.

    In each round those whose coin says yes send ten clipping norms along a direction of their own,
    forwards and backwards in turn, so that models that move and noise that repeats cancel. The
    others send nothing; zeros, where the claim is about what a node sends and not about whether;
    the opposite, where it is about a node that is replaced by another. Where a cohort is drawn, so
    are canaries, each by itself: together with as many absent nodes as its cohort leaves out, a
    canary is a population of its own, for which the claim must hold as well.

    They make sums longer, but the noise, which is measured in what one node may send, stays what it
    was: canaries add none to a distributed sum, and a divisor that counts them scales sum and noise
    alike. In a graph they stand beside each other without neighbours, and are heard as a neighbour
    would hear them.

    Attributes:
        canaries: and their coins.
        scores: (m,) float64, summed over the rounds so far.
        sums: the run's guard, with room in its sums for the canaries.
        sent: by canary, what it last sent behind its masks.
    """

    def __init__(self, experiment: Experiment, count: int) -> None:
        super().__init__(experiment, "auto", None)
        guard = self.guard
        assert guard is not None
        assert guard.clip is not None
        setting = guard.setting
        self.canaries = Canaries.draw(experiment.seed, count, setting.dimension, guard.clip.order)
        self.scores = np.zeros(count)
        cohort = setting.cohort + round(rate(guard.release.sampler) * count)
        self.sums = replace(
            guard, setting=replace(setting, cohort=cohort, most=setting.most + count)
        )
        self.sent: dict[int, NDArray[np.unsignedinteger]] = {}

    @property
    def included(self) -> NDArray[np.bool_]:
        """(m,) the coins."""
        return self.canaries.included

    def protector(self, round: Round) -> Protector:
        return _Listening(self.sums, round, self.digest, self.malicious, audited=self)


@dataclass
class _Listening(Protector):
    """Adds the canaries of a round, and scores what is released of it."""

    audited: NodeSession = field(kw_only=True)

    def steps(self, updates: Tensor, nodes: Ints) -> Tensor:
        here, rows = self._canaries()
        released = super().steps(torch.cat([updates, rows]), np.append(nodes, here))
        self._score(released[len(nodes) :] / self.norm)
        return released[: len(nodes)]

    def mean(
        self, updates: Tensor, weight: Tensor, nodes: Ints, start: Tensor | None = None
    ) -> Tensor | None:
        if self.guard.setting.peers:  # of models whose steps have noise already
            return super().mean(updates, weight, nodes, start)
        (here, rows), norm = self._canaries(), self.norm
        weight = torch.cat([weight, torch.ones(len(here))])
        released = super().mean(torch.cat([updates, rows]), weight, np.append(nodes, here), start)
        if released is not None:
            self._score(released * (self.guard.setting.cohort / norm))
        return released

    @property
    def _sign(self) -> int:
        return 1 - 2 * (self.round.index % 2)

    def _canaries(self) -> tuple[Ints, Tensor]:
        """(k,) ids, which come after those of the nodes, and (k, d) updates."""
        audited, guard, release = self.audited, self.guard, self.guard.release
        included = audited.included
        source = generator(self.round.seed, "canary cohort", self.round.index)
        takes_part = source.random(len(included)) < rate(release.sampler)
        assert guard.noise is not None
        replaced = release.adjacency == "replace"
        if not (replaced or guard.secure or guard.noise.where == "local"):
            takes_part &= included
        here = np.flatnonzero(takes_part)
        sends = np.where(included[here], 1, -1 if replaced else 0) * self._sign
        lengths = torch.from_numpy(sends).unsqueeze(1) * (LENGTH * self.norm)
        return audited.experiment.data.nodes + here, audited.canaries.vectors(here) * lengths

    def _score(self, released: Tensor) -> None:
        """Of what is released, in clipping norms: a sum, or a row for each canary."""
        x, release = self._sign * self.audited.canaries.scores(released), self.guard.release
        self.audited.scores += log_ratio(x, release)
        if release.adjacency == "replace":
            self.audited.scores -= log_ratio(-x, release)

    def _share(self, node: int, codec: Codec) -> NDArray[np.unsignedinteger]:
        own = node < self.audited.experiment.data.nodes
        return super()._share(node, codec) if own else np.zeros(codec.length, codec.dtype)

    def _overheard(self, node: int, masked: NDArray[np.unsignedinteger], codec: Codec) -> None:
        """Masks that come twice cancel in the difference, which is then short."""
        audited = self.audited
        canary = node - audited.experiment.data.nodes
        before, audited.sent[node] = audited.sent.get(node), masked
        if canary < 0 or before is None or before.shape != masked.shape:
            return
        change = masked - before
        signed, short = change.view(f"int{codec.bits}"), 2 ** (codec.bits - 3)
        if (-short < signed).all() and (signed < short).all():  # by chance: 4^-length
            dimension = audited.canaries.dimension
            values = torch.from_numpy(codec.decode(change)[0][:dimension])
            own = audited.canaries.vectors(np.array([canary]))[0].double() @ values
            audited.scores[canary] += _CERTAIN * (self._sign * float(own) / 2 - 0.5)
