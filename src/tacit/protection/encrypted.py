"""Homomorphic encryption as an experiment names it; the protocols are in ``encryption``."""

from dataclasses import dataclass

from tacit.errors import require_number, require_whole
from tacit.protection.secure import two_thirds


@dataclass(frozen=True)
class ThresholdEncryption:
    """The receiver adds up ciphertexts; the sum alone is opened, by ``threshold`` nodes together.

    BFV under a joint key of the cohort, made afresh for each sum, which nobody ever holds: Asharov
    et al., "Multiparty computation with low communication, computation and interaction via
    threshold FHE", EUROCRYPT 2012. Secrets of lost nodes are rebuilt by ``threshold`` others. Needs
    the extra ``bfv``, so Python 3.12 on Linux.

    Attributes:
        threshold: nodes that it takes to open a sum; one of fewer is not opened; 3 or more, and
            more than half of the cohort. As many must collude with the receiver to open an update
            alone, or with a receiver that lies, 2 threshold less the cohort. None: two thirds of
            the smallest cohort.
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
class HomomorphicEncryption:
    """The server adds up ciphertexts; the sum alone is opened, by the one holder of the key.

    CKKS (Cheon, Kim, Kim, Song, "Homomorphic encryption for arithmetic of approximate numbers",
    ASIACRYPT 2017). Needs the extra ``ckks``. Whoever holds the key opens every update that it gets
    hold of: where all nodes hold it, updates stay hidden only as long as no node colludes with the
    server. The decrypted sum is off by a little, which is not the noise of differential privacy and
    hides nothing; it must go no further than to those who hold the key, since it leaks the key
    (Li and Micciancio, "On the security of homomorphic encryption on approximate numbers",
    EUROCRYPT 2021).

    Attributes:
        limit: no number of an update may be larger; larger ones are cut. ``Clip`` makes it
            unnecessary. In the units of the parameters, above 0.

    Raises:
        InputError: a setting out of its range.
    """

    limit: float = 16.0

    def __post_init__(self) -> None:
        require_number("protection.limit", self.limit, above=0)

    def fewest(self, cohort: int) -> int:
        """Nodes in the smallest sum that is opened, where the smallest cohort has so many."""
        return two_thirds(cohort)
