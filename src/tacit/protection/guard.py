"""An experiment's protections, checked against each other and against who talks to whom."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from tacit.errors import InputError
from tacit.protection import (
    DPSGD,
    AdaptiveClip,
    Clip,
    CorrelatedNoise,
    HomomorphicEncryption,
    LaplaceNoise,
    Noise,
    NormProof,
    Protection,
    RandomisedResponse,
    SecretSharing,
    SecureAggregation,
    SecureSum,
    SkellamNoise,
    ThresholdEncryption,
    VerifiableSum,
)
from tacit.protection.codec import Codec
from tacit.protection.correlated import BufferedToeplitz
from tacit.protection.release import Grid, Poisson, Release, Sampler, WithoutReplacement

if TYPE_CHECKING:
    from tacit.protection.proof.projection import NormClaim

# Up to so many nodes everybody masks with everybody.
COMPLETE = 100
# Numbers whose norm is proved about a commitment in some seconds.
_MOST_COMMITTED = 100_000


@dataclass(frozen=True)
class Setting:
    """What a guarantee depends on beside the protections.

    Attributes:
        rounds: of the run.
        cohort: nodes that a round expects, by which a noised sum is divided.
        fewest, most: vectors in the smallest and the largest sum of any round.
        sampler: how a cohort is drawn; None: everybody takes part in every round.
        peers: whether there is no server.
        dimension: numbers of an update.
        training: rates, at which a node's rows enter its batches, and its steps in a round; of
            every node but those that another passes in both.
        separation: the fewest rounds from one in which a node takes part to its next.
        groups: each with an aggregator that sums up its nodes' vectors; 0: without.
        participations: the most times that one node has taken part after each round, where nodes
            do so at their own pace.
    """

    rounds: int
    cohort: int
    fewest: int
    most: int
    sampler: Sampler
    peers: bool
    dimension: int
    training: tuple[tuple[float, int], ...]
    separation: int = 1
    groups: int = 0
    participations: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Guard:
    """The protections by what they do, None for those that are not there."""

    setting: Setting
    clip: Clip | AdaptiveClip | None = None
    noise: Noise | None = None
    secure: SecureSum | None = None
    example: DPSGD | None = None
    proof: NormProof | None = None
    verify: VerifiableSum | None = None
    labels: RandomisedResponse | None = None

    @classmethod
    def of(cls, protections: Sequence[Protection], setting: Setting) -> "Guard":
        """Sort out the protections of an experiment.

        Raises:
            InputError: two that do the same, or that do not hold together; with what would.
        """
        clip = _only(protections, Clip, AdaptiveClip)
        noise = _only(protections, Noise)
        secure = _only(protections, *get_args(SecureSum))
        proof = _only(protections, NormProof)
        example, verify = _only(protections, DPSGD), _only(protections, VerifiableSum)
        labels = _only(protections, RandomisedResponse)
        guard = cls(setting, clip, noise, secure, example, proof, verify, labels)
        if noise is not None:
            guard._check_noise(noise)
        if secure is not None:
            guard._check_secure(secure)
        if proof is not None:
            guard._check_proof(proof)
        if guard.commits:
            guard._check_commitments()
        if guard.noise and guard.example:
            raise _refused(
                guard.example, f"protects rows and {guard.noise!r} nodes; allowed is one of the two"
            )
        if labels is not None and guard.budget:
            raise _refused(
                labels,
                f"protects labels and {guard.budget!r} {'nodes' if noise else 'rows'}; allowed is"
                " one of the two",
            )
        if setting.peers and isinstance(clip, AdaptiveClip):
            raise _refused(
                clip, f"needs a sum that all nodes see; use Clip({clip.norm}) without a server"
            )
        if guard.budget:
            guard.plans  # noqa: B018 (refuses noise that no bound is known for)
        if noise is not None and noise.where == "distributed" and guard.multiplier:
            guard._check_grid(noise)
        if guard.rounds < 1:
            raise _refused(
                guard.budget, "allows not even one round; give a larger epsilon or multiplier"
            )
        return guard

    def _check_noise(self, noise: Noise) -> None:
        name = type(noise).__name__
        order = 1 if isinstance(noise, LaplaceNoise) else 2
        if self.clip is None:
            raise _refused(
                noise,
                "promises nothing about updates of any length; add"
                f" Clip({'1.0, order=1' if order == 1 else '1.0'})",
            )
        if self.clip.order != order:
            raise _refused(
                noise,
                f"is measured in the norm of order {order}; use Clip({self.clip.norm},"
                f" order={order})",
            )
        if self.setting.peers and noise.where != "local":
            raise _refused(
                noise,
                f"is {noise.where}, but there is no server whose sum it could protect; use"
                f' {name}(where="local"), or FedAvg() as the algorithm',
            )
        if isinstance(noise, CorrelatedNoise):
            self._check_correlated(noise)
        if noise.where == "distributed" and self.secure is None:
            raise _refused(
                noise,
                "protects the sum alone, and without masks the server sees each update with a small"
                f' share of it; add SecureAggregation(), or use {name}(where="local"), or'
                ' where="central" if the server is trusted',
            )
        if isinstance(noise, LaplaceNoise) and noise.where == "central" and self.secure:
            raise _refused(
                noise,
                f"is measured in sums of lengths, which rounding to the integers of {self.secure!r}"
                f' adds to; use GaussianNoise(where="central") with Clip({self.clip.norm})',
            )
        if isinstance(self.secure, HomomorphicEncryption) and noise.where != "local":
            raise _refused(
                noise,
                f"is {noise.where}, but under {self.secure!r} the sum is neither exact nor the"
                f' server\'s to see; use {name}(where="local"), or SecureAggregation() instead',
            )

    def _check_correlated(self, noise: CorrelatedNoise) -> None:
        sampler, cohort = self.setting.sampler, self.setting.cohort
        match sampler:
            case Poisson(q):
                nodes = round(cohort / q)
            case WithoutReplacement(_, nodes):
                pass
            case None:
                nodes = cohort
        turns = f'use Star(cohort={max(1, min(cohort, nodes // 4))}, sampling="cyclic")'
        turns += ', or GaussianNoise(where="central")'
        if sampler is not None:
            raise _refused(noise, f"counts on turns, and a drawn node may come back soon; {turns}")
        if self.correlation and self.correlation.error > 1 + 1e-9:
            raise _refused(
                noise,
                f"has {self.correlation.error:.3g} times the deviation of independent noise here,"
                f" as nodes come back too soon; {turns}",
            )
        if isinstance(self.clip, AdaptiveClip):
            raise _refused(
                noise,
                "takes back noise that earlier rounds added in units of one norm; use"
                f" Clip({self.clip.norm})",
            )

    def _check_secure(self, secure: SecureSum) -> None:
        fewest = self.setting.fewest
        whose = "neighbourhood" if self.setting.peers else "cohort"
        whose = "group" if self.setting.groups else whose
        if fewest < 3:
            raise _refused(
                secure,
                f"hides nothing in a sum of {fewest}, as in the smallest {whose}; 3 or more are"
                " needed, so that no node finds out another's update; use"
                f" {'RandomRegular(4) or Complete()' if self.setting.peers else 'Star(cohort=3)'}"
                " where they have rows",
            )
        if self.setting.groups and not isinstance(secure, SecureAggregation):
            raise _refused(
                secure,
                "is between nodes and one server; use Star(), or SecureAggregation() in groups",
            )
        if self.setting.peers and not isinstance(secure, SecureAggregation):
            raise _refused(
                secure, "is between nodes and a server; use SecureAggregation() without one"
            )
        if self.threshold > fewest:
            raise _refused(
                secure,
                f"opens no sum of fewer than {self.threshold} nodes; allowed is 3 to {fewest}, the"
                f" smallest {whose}",
            )
        if isinstance(secure, ThresholdEncryption):
            from tacit.protection.encryption import bfv

            bfv.library()
        if isinstance(secure, HomomorphicEncryption):
            from tacit.protection.encryption import ckks

            ckks.library()

    def _check_proof(self, proof: NormProof) -> None:
        if self.secure is None:
            raise _refused(proof, "is about what a secure sum hides; add SecretSharing()")
        if not isinstance(self.secure, SecretSharing | SecureAggregation):
            raise _refused(proof, f"does not go with {self.secure!r}; use SecretSharing() instead")
        if self.clip is None:
            raise _refused(proof, "has no norm to prove; add Clip(1.0)")
        if self.clip.order != 2:
            raise _refused(
                proof, f"is measured in the norm of order 2; use Clip({self.clip.norm}, order=2)"
            )
        if self.noise and self.noise.where != "central":
            raise _refused(
                proof,
                f"would have to allow the length of a node's {self.noise.where} noise, which hides"
                f' what a liar adds; use {type(self.noise).__name__}(where="central") if the server'
                " is trusted, or leave the proof out",
            )

    def _check_commitments(self) -> None:
        part = self.verify or self.proof
        if self.secure is None:
            raise _refused(part, "is about a secure sum; add SecureAggregation()")
        if self.setting.peers:
            raise _refused(
                part, "is about what a server sums; use FedAvg() as the algorithm, or leave it out"
            )
        single = self.proof and isinstance(self.secure, SecureAggregation)
        if single and (size := self.setting.dimension) > _MOST_COMMITTED:
            raise _refused(
                self.proof,
                f"to a server alone takes minutes for {size:,} numbers; use SecretSharing()"
                f" instead of {self.secure!r}",
            )
        from tacit.protection.proof import group  # noqa: F401 (says what to install)

    def _check_grid(self, noise: Noise) -> None:
        """That the sum has room for the noise which the rounding to the grid asks for."""
        codec = self.codec(self._grid.dimension)
        shares = math.sqrt(self.setting.most / self.threshold)
        if self.release.std * shares > codec.noise_std * codec.scale:
            raise _refused(
                noise,
                f"needs a grid so coarse that rounding {codec.dimension:,} numbers counts for more"
                " than the norm; use GaussianNoise with the same settings",
            )

    @property
    def guards_updates(self) -> bool:
        """Whether something happens to updates, and not to training alone."""
        return bool(self.clip or self.noise or self.secure)

    @property
    def even(self) -> bool:
        """Whether nodes count alike: a weight would be one more number to protect or to prove."""
        return bool(self.noise or self.proof)

    @property
    def budget(self) -> Noise | DPSGD | None:
        """Whichever makes something private."""
        return self.noise or self.example

    @property
    def commits(self) -> bool:
        """Whether nodes commit to what they hide."""
        return bool(self.verify or (self.proof and not isinstance(self.secure, SecretSharing)))

    @property
    def threshold(self) -> int:
        """The fewest nodes whose sum is opened."""
        assert self.secure is not None
        return self.secure.fewest(self.setting.fewest)

    def claim(self, codec: Codec) -> "NormClaim":
        """What a norm proof shows of a node's integers."""
        from tacit.protection.proof.projection import NormClaim

        assert self.proof is not None
        blinding = 4 * 2**16 if self.commits and isinstance(self.secure, SecretSharing) else 0
        bound = math.hypot(codec.norm_bound * codec.scale, blinding)
        return NormClaim(math.ceil(bound), self.proof.projections)

    def codec(self, dimension: int) -> Codec:
        """How vectors of so many numbers become integers: in units of the norm, if one is kept."""
        most, noise = self.setting.most, self.noise
        if self.proof:
            # tau of the claim is below k B^2 and its b^2 below 4 tau: k b^2 < 2^62.
            finest = 30 - math.ceil(math.log2(self.proof.projections))
            codec = Codec.for_sum(1.0, most, dimension)
            return replace(codec, exponent=min(codec.exponent, finest))
        if self.secure and (self.setting.peers or not (self.clip or noise)):
            limit = self.secure.limit
            return Codec.for_sum(math.inf, most, dimension, coordinate_range=limit, max_weight=1.0)
        if noise is None:
            return Codec.for_sum(1.0, most, dimension, max_weight=1.0)
        if noise.where != "distributed":  # beyond 40 scales lies e^-40 of Laplace noise
            reach = 1 + 40 * self._gaussian * (noise.where == "local")
            return Codec.for_sum(math.inf, most, dimension, coordinate_range=reach)
        # The grid follows from the noise and the noise from the grid, which makes it a little more.
        std = 1.1 * self._gaussian * math.sqrt(most / self.threshold)
        codec = Codec.for_sum(1.0, most, dimension, noise_std=std)
        if isinstance(noise, SkellamNoise):  # whose tables end at 2^13
            share = std * codec.scale / math.sqrt(most)
            codec = replace(
                codec, exponent=codec.exponent - max(0, math.ceil(math.log2(share)) - 12)
            )
        return codec

    @cached_property
    def _gaussian(self) -> float:
        """The multiplier of noise on real numbers."""
        from tacit.protection.accounting import multiplier_for

        noise = self.noise
        assert noise is not None
        if noise.multiplier is not None:
            return noise.multiplier
        assert noise.epsilon is not None
        if noise.where == "distributed":  # on integers, of a grid so fine that they are real
            fine = Grid(1, 2.0**40, self.threshold)
            return multiplier_for(
                noise.epsilon, noise.delta, self.setting.rounds, None, self._integer, grid=fine
            )
        return multiplier_for(
            noise.epsilon, noise.delta, self.turns(self.setting.rounds), self._sampler,
            "laplace" if isinstance(noise, LaplaceNoise) else "gaussian", self._adjacency,
        )  # fmt: skip

    @property
    def _sampler(self) -> Sampler:
        """The sampler, where nobody but a trusted server learns who takes part."""
        noise, sampler = self.noise, self.setting.sampler
        if noise is None or noise.where != "central":
            return None
        unknown = isinstance(noise, LaplaceNoise) and isinstance(sampler, WithoutReplacement)
        return None if unknown else sampler

    @property
    def _adjacency(self) -> str:
        # Who sends is seen where noise is local: what is sent may be any update, not one or none.
        local = self.noise is not None and self.noise.where == "local"
        drawn = isinstance(self._sampler, WithoutReplacement)
        return "replace" if local or drawn else "add-or-remove"

    @property
    def _integer(self) -> str:
        return "skellam" if isinstance(self.noise, SkellamNoise) else "discrete_gaussian"

    @property
    def _grid(self) -> Grid:
        bit = isinstance(self.clip, AdaptiveClip)
        codec = self.codec(self.setting.dimension + bit)
        return Grid(codec.dimension, codec.norm_bound * codec.scale, self.threshold)

    @cached_property
    def multiplier(self) -> float:
        """Standard deviation (of Laplace noise: scale) in units of the norm; 0 without noise."""
        from tacit.protection.accounting import multiplier_for, spent

        budget, turns = self.budget, self.turns(self.setting.rounds)
        if budget is None:
            return 0.0
        if budget.multiplier is not None:
            return budget.multiplier
        assert budget.epsilon is not None
        epsilon, delta = budget.epsilon, budget.delta
        if isinstance(budget, Noise):
            if budget.where != "distributed":
                return self._gaussian
            return multiplier_for(epsilon, delta, turns, None, self._integer, grid=self._grid)
        found = 0.0
        for rate, steps in self.setting.training:
            count, sampler = turns * steps, Poisson(rate)
            if not found or spent(Release("gaussian", found, sampler), count, delta) > epsilon:
                found = multiplier_for(epsilon, delta, count, sampler)
        return found

    @cached_property
    def plans(self) -> tuple[tuple[Release, int], ...]:
        """What a node's turn gives away of it, and how often; of a row, for each kind of node."""
        if self.labels is not None:
            return ((self.labels.release, 1),)
        if self.multiplier == 0:
            return ()
        if self.noise is None:
            return tuple(
                (Release("gaussian", self.multiplier, Poisson(rate)), steps)
                for rate, steps in self.setting.training
            )
        if self.noise.where == "distributed":
            return ((Release(self._integer, self.multiplier, grid=self._grid), 1),)
        mechanism = "laplace" if isinstance(self.noise, LaplaceNoise) else "gaussian"
        return ((Release(mechanism, self.multiplier, self._sampler, self._adjacency), 1),)

    @cached_property
    def _worst(self) -> tuple[Release, int]:
        from tacit.protection.accounting import compose

        if len(self.plans) == 1:
            return self.plans[0]
        assert self.budget is not None
        delta, turns = self.budget.delta, self.turns(self.setting.rounds)
        return max(self.plans, key=lambda plan: compose([(plan[0], turns * plan[1])], delta))

    @property
    def release(self) -> Release:
        """What is given away of whoever loses most over the run."""
        return self._worst[0]

    @property
    def releases(self) -> int:
        """How often a node's turn makes its ``release``: once, or at every training step."""
        return self._worst[1]

    @property
    def unit(self) -> Literal["row", "node", "label"]:
        """Whom the releases protect."""
        if self.labels:
            return "label"
        return "row" if self.example else "node"

    @property
    def once(self) -> bool:
        """Whether the run gives something away of a node as a whole: all in the first round."""
        return bool(self.labels) or isinstance(self.noise, CorrelatedNoise)

    def turns(self, rounds: int) -> int:
        """How often so many rounds give something away of one node, at most."""
        if self.once:
            return min(rounds, 1)
        if (often := self.setting.participations) is not None:
            return often[rounds - 1] if rounds else 0
        return -(-rounds // self.setting.separation)

    @cached_property
    def correlation(self) -> BufferedToeplitz | None:
        """By which a round's noise takes earlier rounds' back; None: all are independent."""
        if not isinstance(self.noise, CorrelatedNoise):
            return None
        rounds, separation = self.setting.rounds, self.setting.separation
        return BufferedToeplitz(rounds, -(-rounds // separation), separation)

    def epsilon(self, rounds: int) -> float:
        """What so many rounds spend, of whoever loses most; infinite without noise."""
        from tacit.protection.accounting import compose, filtered

        if self.labels is not None:
            return self.labels.epsilon
        assert self.budget is not None
        delta = self.budget.delta
        turns = self.turns(rounds)
        plans = [[(release, turns * times)] for release, times in self.plans]
        bounds = [filtered(plan, delta) for plan in plans]
        worst = 0.0 if plans else math.inf
        for bound, plan in sorted(zip(bounds, plans, strict=True), key=lambda p: -p[0]):
            if bound > worst:  # an upper bound already
                worst = max(worst, compose(plan, delta))
        return worst

    @cached_property
    def rounds(self) -> int:
        """How many rounds the budget allows, at most those of the run."""
        budget, wanted = self.budget, self.setting.rounds
        if budget is None or budget.epsilon is None or budget.multiplier is None:
            return wanted
        return bisect_right(range(1, wanted + 1), budget.epsilon, key=self.epsilon)


def _only(protections: Sequence[Any], *kinds: type[Any]) -> Any:
    found = [p for p in protections if isinstance(p, kinds)]
    if len(found) > 1:
        raise InputError(
            f"protection: {found[0]!r} and {found[1]!r} were given; allowed is one of the two"
        )
    return found[0] if found else None


def _refused(part: object, why: str) -> InputError:
    return InputError(f"protection: {part!r} {why}")
