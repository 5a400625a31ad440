"""Secure aggregation as an experiment names it; the protocol is in ``secagg``."""

from dataclasses import dataclass

from tacit.errors import require


@dataclass(frozen=True)
class SecureAggregation:
    """The receiver learns the sum of the updates, and no single one of them.

    Pairwise masks that cancel in the sum, with shares of their keys so that dropped nodes do no
    harm: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
    CCS 2017; among a few neighbours of each node as in Bell et al., "Secure single-server
    aggregation with (poly)logarithmic overhead", CCS 2020.

    Attributes:
        threshold: as many nodes must stay to the end of a round, and as many must collude with the
            receiver to undo the masks; more than half of the cohort. None: two thirds of it.
        degree: nodes with which each shares masks and keys. None: all others, up to 100 nodes, and
            as many as the protocol needs beyond.
        limit: no number of an update times its weight may be larger; larger ones are cut, which
            ``Clip`` makes unnecessary. In the units of the parameters, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    threshold: int | None = None
    degree: int | None = None
    limit: float = 16.0

    def __post_init__(self) -> None:
        whole = "a whole number, 2 or more, or None"
        for name in ("threshold", "degree"):
            value = getattr(self, name)
            good = value is None or (isinstance(value, int) and value >= 2)
            require(good, f"protection.{name}", value, whole)
        require(self.limit > 0, "protection.limit", self.limit, "a number above 0")
