"""Secure aggregation as an experiment names it; the protocol is in ``secagg``."""

from dataclasses import dataclass

from tacit.errors import require_number, require_whole


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
