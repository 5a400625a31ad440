"""Who masks with whom: everybody, or a few that each node draws (Bell et al., CCS 2020, SecAgg+).

As in their protocol against a malicious server, a node draws its own neighbours, out of reach of
whoever chose the cohort. They hold its shares; it masks with them and with those who drew it, just
under twice the degree in all. (Against a server that only looks one graph of that degree would do.)

What stays hidden is who gave what within a connected part of the honest survivors' graph. A node is
never alone in one; that there is only one is as likely as in a random graph of this degree, and not
shown for a receiver that picks whom it calls lost.
"""

import secrets
from functools import lru_cache

from tacit.errors import InputError, require


@lru_cache
def degree(nodes: int, corrupt: float = 0.1, dropout: float = 0.1) -> tuple[int, int]:
    """The smallest even degree k and its smallest threshold t, for a cohort with these shares.

    The chance that any node has t corrupt neighbours is below 2^-40, that any has fewer than t
    alive below 2^-20: hypergeometric tails over the n - 1 others, times n. For n = 100, 1,000 and
    10,000 and shares of a tenth: (22, 11), (46, 26), (54, 30).

    Args:
        nodes: size of the cohort.
        corrupt, dropout: shares of it, in [0, 1/3): with a third of the nodes a lying receiver has
            a quorum for two survivor sets, and without a third there is none.

    Raises:
        InputError: no degree will do; such a cohort needs the complete graph.
    """
    import numpy as np
    from scipy.stats import hypergeom

    require(0 <= corrupt < 1 / 3, "corrupt", corrupt, "from 0 to below 1/3")
    require(0 <= dropout < 1 / 3, "dropout", dropout, "from 0 to below 1/3")
    liars, lost = round(corrupt * nodes), round(dropout * nodes)
    for k in range(2, nodes, 2):
        t = np.arange(2, k + 1)
        private = nodes * hypergeom.sf(t - 1, nodes - 1, liars, k) < 2**-40
        alive = nodes * hypergeom.sf(k - t, nodes - 1, lost, k) < 2**-20
        if (private & alive).any():
            return k, int(t[private & alive][0])
    raise InputError(
        f"nodes: no sparse graph of {nodes} nodes bears {liars} corrupt and {lost} lost ones;"
        " use the complete graph (degree None)"
    )


def draw(nodes: tuple[int, ...], me: int, degree: int | None) -> frozenset[int]:
    """Who will hold my shares: ``degree`` others at random, or everybody and myself."""
    if degree is None:
        return frozenset(nodes)
    others = [node for node in nodes if node != me]
    return frozenset(secrets.SystemRandom().sample(others, degree))
