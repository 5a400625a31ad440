"""Differential privacy: where noise is added, how much, and what that promises to whom."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from tacit.errors import InputError, require, require_number

Where = Literal["central", "distributed", "local"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Either what may be spent, from which the noise follows, or the noise.

    Attributes:
        epsilon: what the whole run may spend; above 0.
        delta: the chance that it is more; above 0, and below 1. For one among n units it should be
            well below 1 / n.
        multiplier: standard deviation of the noise in units of the clipping norm; 0 or more. With
            an epsilon as well, the run ends before more would be spent.

    Raises:
        InputError: neither an epsilon nor a multiplier, or one out of its range.
    """

    epsilon: float | None = None
    delta: float
    multiplier: float | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.epsilon is None and self.multiplier is None:
            raise InputError(
                f"protection.epsilon: {name} was given neither an epsilon nor a multiplier; allowed"
                f" is one of them, such as {name}(epsilon=3, delta=1e-5)"
            )
        require_number("protection.epsilon", self.epsilon, above=0, none=True)
        require_number("protection.multiplier", self.multiplier, least=0, none=True)
        require_number("protection.delta", self.delta, above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Noise(Budget):
    """Noise on clipped updates, whose unit of privacy is a node with all of its rows.

    Attributes:
        where: it is added.
            "central": by the server to the sum, which it sees without noise: it must be trusted.
            "distributed": in shares, by the nodes. The sum has the guarantee, single updates have
            not, so that it needs ``SecureAggregation``.
            "local": by each node alone to all of its update; nobody has to be trusted. What one
            node sends is then nearly the same for any two updates, which are up to two clipping
            norms apart, and a sum under the other two with a node's update or without it, one norm.

    Raises:
        InputError: another ``where``, one that the mechanism does not know, or as ``Budget``.
    """

    where: Where = "distributed"
    mechanism: ClassVar[str]
    places: ClassVar[tuple[Where, ...]] = get_args(Where)

    def __post_init__(self) -> None:
        super().__post_init__()
        places = " or ".join(map(repr, self.places))
        require(self.where in self.places, "protection.where", self.where, places)


class GaussianNoise(Noise):
    """Normal noise; drawn from the discrete Gaussian on the integers of the sum if distributed.

    Dwork, Roth, "The algorithmic foundations of differential privacy", 2014, appendix A; Kairouz,
    Liu, Steinke, "The distributed discrete Gaussian mechanism", ICML 2021. See ``Noise``.
    """

    mechanism = "gaussian"


class SkellamNoise(Noise):
    """Differences of two Poisson counts, whose sums are of the same kind.

    Agarwal, Kairouz, Liu, "The Skellam mechanism for differentially private federated learning",
    NeurIPS 2021. See ``Noise``.
    """

    mechanism = "skellam"
    places = ("distributed",)


@dataclass(frozen=True, kw_only=True)
class LaplaceNoise(Noise):
    """Double exponential noise, for ``Clip(norm, order=1)``; its multiplier is that of its scale.

    Dwork, McSherry, Nissim, Smith, "Calibrating noise to sensitivity in private data analysis", TCC
    2006. See ``Noise``.
    """

    where: Where = "local"
    mechanism = "laplace"
    places = ("central", "local")


@dataclass(frozen=True, kw_only=True)
class DPSGD(Budget):
    """Noise on every training step inside a node, whose unit of privacy is one training row.

    Batches are drawn by Poisson sampling, each row's gradient is clipped, and noise of
    ``multiplier`` times the norm is added to their sum: Abadi et al., "Deep learning with
    differential privacy", CCS 2016, algorithm 1. What a node sends then has the guarantee towards
    everybody.

    Attributes:
        norm: the longest that a row's gradient may be; above 0.

    Raises:
        InputError: a norm that is not above 0, or as ``Budget``.
    """

    norm: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("protection.norm", self.norm, above=0)
