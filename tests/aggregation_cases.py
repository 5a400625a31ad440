"""Every aggregation rule, what holds for it, and scenes to try it in; for the conformance tests."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from torch import Tensor

import tacit.aggregation
from tacit.aggregation.before import PreAggregation
from tacit.aggregation.rule import Aggregation, Round

D = 8
FOUND = {
    name: kind
    for module in pkgutil.iter_modules(tacit.aggregation.__path__, "tacit.aggregation.")
    for name, kind in vars(importlib.import_module(module.name)).items()
    if isinstance(kind, type)
    and issubclass(kind, Aggregation | PreAggregation)
    and not inspect.isabstract(kind)
    and not name.startswith("_")
}
R = SimpleNamespace(**FOUND)


@dataclass(frozen=True)
class Scene:
    """Vectors of one receiver, or of a batch, and what else the receiver knows.

    ``honest`` are the last of ``received``; own is drawn like them.
    """

    own: Tensor
    received: Tensor
    weight: Tensor
    target: Tensor
    liars: int = 0
    size: float = 1.0

    @property
    def honest(self) -> Tensor:
        return self.received[..., self.liars :, :]

    @property
    def round(self) -> Round:
        """All aids: the loss is least at ``target``, and a server's root rows lead there."""
        *batch, k = self.weight.shape
        nodes = math.prod(batch)
        return Round(
            index=1,
            total=4,
            receivers=torch.arange(nodes).view(batch),
            links=torch.arange(nodes * k).view(*batch, k),
            all_links=nodes * k,
            start=self.own + 0.1 * (self.own - self.target),
            loss=lambda receivers, models: (
                (models - self.target.view(-1, D)[receivers].unsqueeze(-2)).square().sum(-1)
                / self.size**2
            ),
            root=None if batch else lambda model: model + 0.3 * (self.target - model),
        )

    def alone(self, i: int, first: int = 0) -> "Scene":
        """One receiver of a batch, with what it received from ``first`` on."""
        share = self.weight[i, first:] * self.weight[i].sum() / self.weight[i, first:].sum()
        return replace(
            self,
            own=self.own[i],
            received=self.received[i, first:],
            weight=share,
            target=self.target[i],
        )

    def round_of(self, i: int, first: int = 0) -> Round:
        """The round of ``alone``."""
        whole = self.round
        return replace(
            whole,
            receivers=whole.receivers[i],
            links=whole.links[i, first:],
            start=whole.start[i],
        )

    def moved(self, by: Tensor, size: float) -> "Scene":
        """Everything moved, then made larger."""
        own, received, target = (size * (x + by) for x in (self.own, self.received, self.target))
        return replace(self, own=own, received=received, target=target, size=size)


def scene(
    seed: int, k: int, *batch: int, total: float = 1.0, dtype: torch.dtype = torch.float64
) -> Scene:
    """k honest vectors and own, scattered about a target; weights of a sum."""
    draw = torch.Generator().manual_seed(seed)
    target = 2 * torch.randn(*batch, D, generator=draw, dtype=torch.float64)
    models = target.unsqueeze(-2) + 0.5 * torch.randn(
        *batch, k + 1, D, generator=draw, dtype=torch.float64
    )
    weight = torch.full((*batch, k), total / k, dtype=dtype)
    return Scene(
        models[..., 0, :].to(dtype), models[..., 1:, :].contiguous().to(dtype), weight,
        target.to(dtype),
    )  # fmt: skip


# How far a result may lie off, of what, by what arithmetic: (found, allowed) of a scene.
Bound = Callable[[Tensor, Scene, "Case"], tuple[float, float]]


def corners(s: Scene) -> tuple[Tensor, Tensor]:
    """The least and the largest of each coordinate among the honest, own included."""
    everybody = torch.cat([s.honest, s.own.unsqueeze(0)]).double()
    return everybody.amin(0), everybody.amax(0)


def diameter(s: Scene) -> float:
    everybody = torch.cat([s.honest, s.own.unsqueeze(0)]).double()
    return float(torch.cdist(everybody, everybody).max())


def reach(s: Scene) -> float:
    """The distance of the farthest honest vector from own."""
    return float((s.honest - s.own).double().norm(dim=-1).max())


def balance_reach(s: Scene, case: "Case") -> float:
    """Half of gamma exp(-kappa t / T) ||own|| in the scene's round, t / T = 1 / 4."""
    return 0.5 * 0.3 * math.exp(-1 / 4) * float(s.own.norm())


def from_own(result: Tensor, s: Scene) -> float:
    return float((result - s.own).double().norm())


def from_mean(result: Tensor, s: Scene) -> float:
    return float((result - s.honest.mean(0)).double().norm())


def in_range(widths: float) -> Bound:
    """Each coordinate in the range of the honest, widened by so many of its widths."""

    def bound(result: Tensor, s: Scene, case: "Case") -> tuple[float, float]:
        low, high = corners(s)
        beyond = torch.maximum(low - result, result - high) / (high - low)
        return float(beyond.max()) + 1, 1 + widths

    return bound


def near_own(share: Callable[[Scene, "Case"], float]) -> Bound:
    return lambda result, s, case: (from_own(result, s), share(s, case))


def near_mean(diameters: Callable[[int, int], float]) -> Bound:
    """So many diameters of the honest, a function of k and f, from their mean."""

    def bound(result: Tensor, s: Scene, case: "Case") -> tuple[float, float]:
        return from_mean(result, s), diameters(case.k, case.f) * diameter(s)

    return bound


def krum_diameters(n: int, f: int) -> float:
    """A choice scores at most what the worst honest vector does, (n-f-2) diameters squared.

    A liar's n-f-2 nearest have n-2f-1 honest ones, so that one of these lies within the root of
    (n-f-2)/(n-2f-1); and from it to the mean it is one more.
    """
    return math.sqrt((n - f - 2) / (n - 2 * f - 1)) + 1


@dataclass(frozen=True)
class Case:
    """A rule and what holds for it.

    Attributes:
        of: the class under test.
        rule: the rule, for f of k.
        bound: how far f liars move it; None: anywhere, as its ``tolerates`` says.
        alone: whether that holds as well for liars who differ from each other.
        permutes, moves, grows: whether it does not matter in which order vectors come, whether the
            result moves along with all vectors, and whether it grows along with them.
        agrees: whether the result is x where all received are x and own is not.
    """

    of: str
    rule: Aggregation
    bound: Bound | None
    alone: bool = True
    permutes: bool = True
    moves: bool = True
    grows: bool = True
    agrees: bool = True
    k: int = 12
    f: int = 2


CASES = [
    Case("Mean", R.Mean(), None),
    Case("Median", R.Median(), in_range(0)),
    Case("TrimmedMean", R.TrimmedMean(f=2), in_range(0)),
    # The median lies in the range, and so k - f honest values within one width of it.
    Case("MeaMed", R.MeaMed(f=2), in_range(1)),
    Case("Bulyan", R.Bulyan(f=3), in_range(1), k=15, f=3),
    Case("SignMajority", R.SignMajority(0.01), near_own(lambda s, c: 0.01 * D**0.5),
         grows=False, agrees=False),
    Case("FoundationFL", R.FoundationFL(f=2), in_range(0)),
    Case("FoundationFL", R.FoundationFL(f=2, screen="trimmed-mean"), None),
    Case("BRIDGE", R.BRIDGE(f=2), in_range(0), agrees=False),
    Case("BRIDGE", R.BRIDGE(f=2, screen="median"), in_range(0)),
    # Krum over k + 1, own among the honest.
    Case("BRIDGE", R.BRIDGE(f=2, screen="krum"), near_mean(lambda k, f: krum_diameters(k + 1, f))),
    Case("BRIDGE", R.BRIDGE(f=3, screen="bulyan"), in_range(0), k=15, f=3),
    Case("Krum", R.Krum(f=2), near_mean(krum_diameters)),
    Case("MultiKrum", R.MultiKrum(f=2), near_mean(krum_diameters)),
    # (1 - a) / root(1 - 2a) radii of the honest about any point, a = f / k: Minsker, "Geometric
    # median and robust estimation in Banach spaces", 2015, lemma 2.1.
    Case("GeometricMedian", R.GeometricMedian(),
         near_mean(lambda k, f: (1 - f / k) / math.sqrt(1 - 2 * f / k))),
    # The mean of k vectors that are at most tau long; two steps of it.
    Case("CenteredClipping", R.CenteredClipping(tau=0.7, steps=2), near_own(lambda s, c: 2 * 0.7),
         grows=False, agrees=False),
    Case("NormBound", R.NormBound(norm=0.7), near_own(lambda s, c: 0.7), grows=False, agrees=False),
    # The honest are a subset of one diameter, and every subset has an honest vector.
    Case("MDA", R.MDA(f=2), near_mean(lambda k, f: 2)),
    # The k-2f or more honest of the subset have a mean within the root of (k-f)/(k-2f) times the
    # eigenvalue, which is at most a diameter squared; from it to the honest mean it is one more.
    Case("SMEA", R.SMEA(f=2), near_mean(lambda k, f: math.sqrt((k - f) / (k - 2 * f)) + 1)),
    # While the top eigenvalue is above 8 diameters squared, honest vectors lose less of their
    # weight than liars do; so one turn has less before 2f is lost. There the honest weigh k-3f or
    # more of h + f in all, and their mean lies within the root of 8 (h + f) / h.
    Case("CAF", R.CAF(f=2), near_mean(lambda k, f: math.sqrt(8 * (k - 2 * f) / (k - 3 * f)) + 1)),
    # Liars who agree make up the top direction; of others the smaller are not seen.
    Case("DnC", R.DnC(f=2), in_range(0), alone=False),
    # No longer than the trusted update, 0.3 of the way to the target.
    Case("FLTrust", R.FLTrust(),
         near_own(lambda s, c: 0.3 * float((s.target - s.own).norm())), agrees=False),
    Case("FoolsGold", R.FoolsGold(), in_range(0), alone=False, agrees=False),
    # To start and on as its docstring says; the own step is 0.1 of the way to target.
    Case("StepBound", R.StepBound(f=2),
         near_own(lambda s, c: (1 + math.sqrt((c.k + 1) / (c.k + 1 - 2 * c.f)))
                  * 0.1 * float((s.target - s.own).norm())), agrees=False),
    # Half of the way to what lies within the radius.
    Case("Balance", R.Balance(), near_own(balance_reach), moves=False, agrees=False),
    # With 1,000 buckets for 8 coordinates, each has its own, and sketches keep distances.
    Case("SketchGuard", R.SketchGuard(), near_own(balance_reach), moves=False, agrees=False),
    # Half of the way to candidates that are no farther off than the honest.
    Case("UBAR", R.UBAR(), near_own(lambda s, c: 0.5 * reach(s)), agrees=False),
    # tau^2 = (1/b) sum w D^2 over k - f inputs no farther off than the honest, with b = f w.
    Case("ClippedGossip", R.ClippedGossip(f=2),
         near_own(lambda s, c: math.sqrt((c.k - c.f) / c.f) * reach(s)), agrees=False),
    Case("CSPlusRG", R.CSPlusRG(f=2), near_own(lambda s, c: reach(s)), agrees=False),
    Case("GTSRG", R.GTSRG(f=2), near_own(lambda s, c: reach(s)), agrees=False),
    Case("NNA", R.NNA(f=2), near_own(lambda s, c: reach(s)), agrees=False),
    # In the first round an input has to be among the k-f-1 nearest to the median, which lies in the
    # range of the honest: from own a diagonal to the median, and one from there.
    Case("WFAgg", R.WFAgg(f=2), near_own(
        lambda s, c: 0.8 * 2 * float((corners(s)[1] - corners(s)[0]).norm())),
        moves=False, agrees=False),
    # The k - f nearest of an honest vector lie within a diameter of it, so that at most f mixed
    # vectors do not lie within a diameter of the range.
    Case("NNM", R.NNM(f=2) | R.TrimmedMean(f=2), lambda result, s, c: (
        float(torch.maximum(corners(s)[0] - result, result - corners(s)[1]).max()), diameter(s))),
    Case("NNM", R.NNM(f=2) | R.Krum(f=2), near_mean(lambda k, f: 3 * krum_diameters(k, f) + 1)),
    # Two liars spoil at most two of six buckets.
    Case("Bucketing", R.Bucketing(s=2) | R.TrimmedMean(f=2), in_range(0), permutes=False),
    Case("StaticClipping", R.StaticClipping(norm=0.7) | R.Mean(), near_own(lambda s, c: 0.7),
         grows=False, agrees=False),
    # floor(2 (2/12) 10) = 3 are cut to the length of the fourth longest, an honest one.
    Case("ARC", R.ARC(f=2) | R.Mean(), near_own(lambda s, c: reach(s))),
]  # fmt: skip
