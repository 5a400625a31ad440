"""What an experiment's protections do to the vectors of a round, in this process."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.aggregation.rule import Round
from tacit.data.federation import Federation, Split
from tacit.engine.secure_sum import Binding, Heard, Opened, secure_sum
from tacit.protection import (
    AdaptiveClip,
    LaplaceNoise,
    RandomisedResponse,
    SecureAggregation,
    SkellamNoise,
)
from tacit.protection.clip import clipped
from tacit.protection.codec import Codec
from tacit.protection.guard import Guard
from tacit.protection.sampling import (
    Words,
    discrete_gaussian,
    gaussian,
    laplace,
    secure,
    seeded,
    skellam,
)
from tacit.randomness import generator, key
from tacit.training.plan import Ints

_NORM, _CORRELATED = "protection.norm", "protection.correlated"
_LARGEST = torch.finfo(torch.float32).max


def noise_seed(seed: int, experiment: bytes) -> int:
    """The seed of an experiment's noise: its own, since two models with one noise differ without.

    Args:
        experiment: its 32-byte digest.
    """
    return key(seed, "noise", int.from_bytes(experiment, "little"))


def randomised(data: Federation, response: RandomisedResponse, seed: int) -> Federation:
    """The federation as its nodes learn from it, with the training labels that they answer."""
    parts = []
    for node, (x, y) in enumerate(data.train.parts()):
        source = seeded(seed, "randomised-response", 0, node)
        parts.append((x, torch.from_numpy(response.answer(source, y.numpy(), data.classes))))
    return replace(data, train=Split.pack(parts))


@dataclass
class Protector:
    """Carries a guard out in one round.

    Attributes:
        experiment: its 32-byte digest, to which masks and noise are bound.
        malicious: ids of nodes that, where nobody can check it, do not clip.
        secret: whether noise comes from the operating system, and not from the seed.
        sums: secure sums so far in this round.
        counted: ids of the nodes in the last sum.
        sent: bytes that the last secure sum took.
        listener: is told what nodes send, or hide, in secure sums; for the run's record.
        on_sum: is told whose secure sum was opened, and (d,) the mean that it gives.
        on_unmasked: is told how a sum of masked vectors was opened; for the run's openings.
    """

    guard: Guard
    round: Round
    experiment: bytes
    malicious: Ints
    secret: bool = False
    sums: int = 0
    sent: int = 0
    counted: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    listener: Heard | None = None
    on_sum: Callable[[Ints, Tensor], None] | None = None
    on_unmasked: Callable[[Opened], None] | None = None

    @property
    def norm(self) -> float:
        """The clipping norm of this round, in the units of the parameters; 1 without one."""
        clip = self.guard.clip
        if isinstance(clip, AdaptiveClip):
            return float(self.round.memory.get(_NORM, clip.norm))
        return clip.norm if clip else 1.0

    @property
    def sums_up(self) -> bool:
        """Whether a server learns the sum of a round alone, or a noised one."""
        guard = self.guard
        aggregate = guard.noise is not None and guard.noise.where != "local"
        return bool(guard.secure) or aggregate or isinstance(guard.clip, AdaptiveClip)

    @property
    def adds_noise(self) -> bool:
        """Whether a server does, to the sum of an empty cohort as well."""
        return self.guard.noise is not None and self.guard.noise.where == "central"

    def steps(self, updates: Tensor, nodes: Ints) -> Tensor:
        """(k, d) what nodes let out of updates that nobody sums: clipped, with local noise."""
        return self._units(updates, nodes) * self.norm

    def hidden(self, update: Tensor, share: float, node: int) -> NDArray[np.unsignedinteger]:
        """(length,) what a node alone hides in the sum of a round, of its (d,) update.

        Args:
            share: its weight, relative to the largest in the sum.
        """
        unit = self._units(update.unsqueeze(0), np.array([node]))[0]
        return self.vector(unit, share, node, self.guard.codec(len(unit)))

    def opened(self, total: NDArray[np.unsignedinteger], nodes: int, size: int) -> Tensor:
        """(d,) the mean of a round, of the sum of what so many nodes have ``hidden``.

        Args:
            size: d.

        Raises:
            SumError: one that no honest nodes can have sent.
        """
        values, count = _decoded(self.guard.codec(size), total, nodes)
        return (self._mean(values, count, self._central(size)) * self.norm).float()

    def _units(self, updates: Tensor, nodes: Ints) -> Tensor:
        """(k, d) updates in units of the norm, clipped, with local noise."""
        units, _ = self._clipped(self._numbers(updates))
        return self._local(units, nodes)

    def _numbers(self, updates: Tensor) -> Tensor:
        """With noise, no step for an update that is not finite: to be left out would tell of it."""
        if self.guard.noise is None:
            return updates
        return updates.where(updates.isfinite().all(-1, keepdim=True), 0)

    def mean(
        self,
        updates: Tensor,
        weight: Tensor,
        nodes: Ints,
        start: Tensor | None = None,
        groups: Ints | None = None,
    ) -> Tensor | None:
        """(d,) the mean of (k, d) updates as a server learns it; None where no sum is opened.

        With noise every node counts alike, over all that a round expects.

        Args:
            start: (d,) what the nodes received from a server in this round.
            groups: (k,) whose secure sums are opened one by one, and then added up; None: one.
        """
        self.counted, self.sent = nodes[:0], 0
        guard, noise, clip = self.guard, self.guard.noise, self.guard.clip
        bit = self._bit if isinstance(clip, AdaptiveClip) else 0.0
        # Whether or not a sum is opened: correlated noise counts the rounds.
        central = self._central(updates.shape[1] + bool(bit))
        if not guard.setting.peers:
            updates = self._numbers(updates)
        finite = updates.isfinite().all(-1)
        updates, weight, nodes = updates[finite], weight[finite], nodes[finite.numpy()]
        groups = np.zeros_like(nodes) if groups is None else groups[finite.numpy()]
        least = guard.threshold if guard.secure else 0 if noise else 1
        if len(nodes) < least or not (noise or weight.any()):
            return None
        if guard.setting.peers:  # whole models of neighbours, whose steps are clipped and noised
            summed = self._sums(updates, weight / weight.max(), nodes, start, groups)
            return None if summed is None else (summed[0] / summed[1]).float()
        units, fits = self._clipped(updates)
        if guard.secure:  # behind masks nobody sees who does not clip
            wild = torch.from_numpy(np.isin(nodes, self.malicious))
            units[wild] = (updates[wild].double() / self.norm).clamp(-_LARGEST, _LARGEST).float()
        if bit:
            shrink = 1 / math.hypot(1, bit / 2)
            units = torch.cat([units, bit * (fits.float().unsqueeze(-1) - 0.5)], -1) * shrink
        units = self._local(units, nodes)
        share = torch.ones_like(weight) if guard.even else weight / weight.max()
        if guard.secure:
            summed = self._sums(units, share, nodes, start, groups)
            if summed is None:
                return None
            total, count = summed
        else:
            self.counted = nodes
            total, count = (share.double() @ units.double()), float(share.sum())
        mean = self._mean(total, count, central)
        if bit:
            mean = mean / shrink
            assert isinstance(clip, AdaptiveClip)
            at_most = float(mean[-1]) / bit + 0.5
            norm = self.norm * math.exp(-clip.lr * (at_most - clip.quantile))
            scale, mean = self.norm, mean[:-1]
            self.round.memory[_NORM] = torch.tensor(norm, dtype=torch.float64)
            return (mean * scale).float()
        return (mean * self.norm).float()

    def _mean(self, total: Tensor, count: float, central: Tensor) -> Tensor:
        """(d,) float64, in units of the norm."""
        noise, setting = self.guard.noise, self.guard.setting
        if noise and not (noise.where == "local" and setting.groups):  # which know their size
            count = setting.cohort
        return (total + central) / count

    @property
    def _bit(self) -> float:
        """What one bit weighs beside an update of norm 1.

        So that the noise of the bits' sum is a twentieth of the cohort, as the paper has it, but no
        less than that of one bit by itself.
        """
        z = self.guard.multiplier
        if z == 0:
            return 1.0
        deviation = max(self.guard.setting.cohort / 20, z)
        return z / math.sqrt(deviation**2 - z**2 / 4)

    def _clipped(self, updates: Tensor) -> tuple[Tensor, Tensor]:
        """(k, d) updates in units of the norm, and (k,) whether each was short enough."""
        clip = self.guard.clip
        if clip is None:
            return updates, torch.ones(len(updates), dtype=torch.bool)
        short, fits = clipped(updates, self.norm, clip.order)
        return short / self.norm, fits

    def _local(self, units: Tensor, nodes: Ints) -> Tensor:
        noise = self.guard.noise
        if noise is None or noise.where != "local" or not self.guard.multiplier:
            return units
        shape = tuple(units.shape[1:])
        drawn = [self._drawn(shape, "local-noise", int(node)) for node in nodes]
        return units + torch.stack(drawn) if drawn else units

    def _central(self, size: int) -> Tensor:
        """(d,) float64 what a server adds to the sum of a round."""
        if not (self.adds_noise and self.guard.multiplier):
            return torch.zeros(size, dtype=torch.float64)
        fresh, matrix = self._drawn((size,), "central-noise").double(), self.guard.correlation
        if matrix is None:
            return fresh
        empty = torch.zeros(2, size, dtype=torch.float64)
        state = self.round.memory.get(_CORRELATED, empty)
        noise, self.round.memory[_CORRELATED] = matrix.next(state, matrix.sensitivity * fresh)
        return noise

    def _drawn(self, shape: tuple[int, ...], purpose: str, *node: int) -> Tensor:
        """Noise on real numbers, in units of the norm."""
        draw = laplace if isinstance(self.guard.noise, LaplaceNoise) else gaussian
        return draw(self._source(purpose, *node), self.guard.multiplier, shape)

    def _source(self, purpose: str, *node: int) -> Words:
        """Where noise comes from."""
        if self.secret:
            return secure()
        return seeded(
            noise_seed(self.round.seed, self.experiment), purpose, self.round.index, *node
        )

    def _sums(
        self, units: Tensor, share: Tensor, nodes: Ints, start: Tensor | None, groups: Ints
    ) -> tuple[Tensor, float] | None:
        """Sum of share x units and of the shares, of the groups whose secure sum is opened."""
        found = []
        for group in np.unique(groups):
            at = torch.from_numpy(np.flatnonzero(groups == group))
            if len(at) >= self.guard.threshold:
                opened = self._summed(units[at], share[at], nodes[groups == group], start)
                if opened is not None and self.on_sum:
                    self.on_sum(nodes[groups == group], opened[0] / opened[1] * self.norm)
                found.append(opened)
        totals = [each for each in found if each is not None]
        if not totals:
            return None
        return torch.stack([total for total, _ in totals]).sum(0), sum(n for _, n in totals)

    def _summed(
        self, units: Tensor, share: Tensor, nodes: Ints, start: Tensor | None
    ) -> tuple[Tensor, float] | None:
        """Sum of share x units and of the shares, as a secure sum opens them, if it does."""
        guard, codec = self.guard, self.guard.codec(units.shape[1])
        # What nobody notices: each number as large as one may be.
        wild = replace(
            codec, clip=math.inf, coordinate_range=min(codec.clip, codec.coordinate_range)
        )
        vectors = {
            node: self.vector(unit, float(part), node, wild if node in self.malicious else codec)
            for unit, part, node in zip(units, share, nodes.tolist(), strict=True)
        }
        model = b"" if start is None else start.numpy().tobytes()
        binding = Binding(self.experiment, self.round.index, model, self.sums)
        self.sums += 1
        heard = partial(self._overheard, codec=codec)
        opened = secure_sum(guard, codec, binding, vectors, heard)
        if self.listener and not isinstance(guard.secure, SecureAggregation):
            for node, vector in vectors.items():
                self.listener(node, vector)
        self.counted = np.append(self.counted, np.array(opened.nodes, np.int64))
        self.sent += opened.bytes
        if self.on_unmasked and opened.behind is not None:
            self.on_unmasked(opened)
        if opened.total is None:
            return None
        return _decoded(codec, opened.total, len(opened.nodes))

    def vector(
        self, unit: Tensor, share: float, node: int, codec: Codec
    ) -> NDArray[np.unsignedinteger]:
        """(length,) what a node hides in a sum: its (d,) update, clipped, in units of the norm.

        Args:
            share: of the weight, from 0 to 1, where the codec has one.
        """
        rounding = generator(self.round.seed, "rounding", self.round.index, node, self.sums)
        weight = share if codec.max_weight is not None else None
        encoded = codec.encode(unit.numpy(), rounding, weight)
        noise = self.guard.noise
        if noise and noise.where == "distributed" and self.guard.multiplier:
            encoded = encoded + self._share(node, codec)
        return encoded

    def _share(self, node: int, codec: Codec) -> NDArray[np.unsignedinteger]:
        """A node's part of the noise: enough in sum if no more than the threshold stay."""
        release = self.guard.release
        draw = skellam if isinstance(self.guard.noise, SkellamNoise) else discrete_gaussian
        source = self._source("noise-share", node)
        std = release.std / math.sqrt(self.guard.threshold)
        drawn = draw(source, std, (codec.length,))
        return drawn.astype(f"int{codec.bits}").view(codec.dtype)

    def _overheard(self, node: int, masked: NDArray[np.unsignedinteger], codec: Codec) -> None:
        """What a node sent behind its masks: nothing to anybody but an audit, and a record."""
        if self.listener:
            self.listener(node, masked)


def _decoded(codec: Codec, total: NDArray[np.unsignedinteger], nodes: int) -> tuple[Tensor, float]:
    """Sum of share x units and of the shares, of so many nodes."""
    codec.check(total, nodes)
    values, count = codec.decode(total)
    return torch.from_numpy(values), count if codec.max_weight is not None else float(nodes)
