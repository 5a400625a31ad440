"""Secure sums and proofs about them as an experiment names them.

The protocols are in ``secagg``, ``sharing`` and ``proof``.
"""

import math
from dataclasses import dataclass

from tacit.errors import require, require_number, require_whole


@dataclass(frozen=True)
class SecureAggregation:
    """The receiver learns the sum of the updates, and no single one of them.

    Pairwise masks that cancel in the sum, with shares of their keys so that dropped nodes do no
    harm: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
    CCS 2017. In cohorts above 100 each node masks with some others only: Bell et al., "Secure
    single-server aggregation with (poly)logarithmic overhead", CCS 2020.

    Attributes:
        threshold: a sum of fewer nodes is not opened; 3 or more. None: two thirds of the smallest
            cohort. Up to 100 nodes as many (and more than half of the cohort) must collude with the
            receiver to undo the masks.
        limit: no number of an update may be larger; larger ones are cut. ``Clip`` makes it
            unnecessary. In the units of the parameters, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    threshold: int | None = None
    limit: float = 16.0

    def __post_init__(self) -> None:
        require_whole(3, "protection.threshold", self.threshold, none=True)
        require_number("protection.limit", self.limit, above=0)

    def fewest(self, cohort: int) -> int:
        """Nodes in the smallest sum that is opened, where the smallest cohort has so many."""
        return self.threshold or two_thirds(cohort)


@dataclass(frozen=True)
class SecretSharing:
    """A server and a helper learn the sum of the updates together, and no single one of them.

    A node sends its update less a keystream to the server and the keystream's 32-byte seed to the
    helper: additive sharing, with one upload: Corrigan-Gibbs and Boneh, "Prio", NSDI 2017. Nodes do
    not talk to each other, and a lost one does no harm. If server and helper collude, they see
    every update.

    Attributes:
        minimum: the helper does not sum fewer nodes; 3 or more. None: two thirds of the smallest
            cohort.
        limit: no number of an update may be larger; larger ones are cut. ``Clip`` makes it
            unnecessary. In the units of the parameters, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    minimum: int | None = None
    limit: float = 16.0

    def __post_init__(self) -> None:
        require_whole(3, "protection.minimum", self.minimum, none=True)
        require_number("protection.limit", self.limit, above=0)

    def fewest(self, cohort: int) -> int:
        """Nodes in the smallest sum that is opened, where the smallest cohort has so many."""
        return self.minimum or two_thirds(cohort)


@dataclass(frozen=True)
class NormProof:
    """Nodes prove that what they hide in a secure sum is no longer than ``Clip`` says.

    Random projections of an update are small only if it is: a node whose update is longer than the
    norm times the slack is left out of the sum, with probability 1 - 1e-6 and more. The slack is
    1.82 for 128 projections, 1.53 for 256 and 1.23 for 1,024. An honest node is left out with
    probability 1e-6 a round. Nodes count alike, whatever their rows: a weight would be one more
    number to prove. In zero knowledge:

    - to the server and helper of ``SecretSharing``, in tenths of a second: Rothblum et al., "PINE",
      2023, and Boneh et al., CRYPTO 2019, with the differences that ``proof.projection`` tells;
    - to the one server of ``SecureAggregation``, about a commitment, in seconds, and for up to
      100,000 numbers: Zhu et al., "RiseFL", VLDB 2024, with those of ``proof.committed``. The sum
      is checked as by ``VerifiableSum``: a node that hides another vector ends the run.

    Attributes:
        projections: 128 to 1,024, a multiple of 8; more of them take longer.

    Raises:
        InputError: a setting out of its range.
    """

    projections: int = 128

    def __post_init__(self) -> None:
        good = type(self.projections) is int and self.projections in range(128, 1025, 8)
        allowed = "a multiple of 8 from 128 to 1024"
        require(good, "protection.projections", self.projections, allowed)


@dataclass(frozen=True)
class VerifiableSum:
    """Whoever has the nodes' commitments checks that a secure sum is the sum of what they hold.

    A server that opens another sum, or a node that sends another vector than it committed to, ends
    the run. Pedersen commitments; Guo et al., "VeriFL", IEEE TIFS 2021. Needs the extra
    ``commitments``, and about a second for a million numbers, at each node and for the check.
    """


def two_thirds(cohort: int) -> int:
    """Rounded up, and at least 3: of 2, each learns the other's from the sum."""
    return max(3, math.ceil(2 * cohort / 3))
