"""Attacks that only exist without a server: they drive neighbours apart."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.search import farthest, per_link
from tacit.attacks.view import Knowledge, Secrets, View
from tacit.errors import InputError, require_number


@dataclass(frozen=True, kw_only=True)
class Dissensus(UpdateAttack):
    """Undo what the honest neighbours of each victim do to bring it closer to them.

    Victim i is told x_i - eps sum_j W_ij (x_j - x_i) / sum_b W_ib, j over its honest and b over its
    malicious neighbours: He, Karimireddy, Jaggi, "Byzantine-robust decentralized learning via
    ClippedGossip", 2022, section 4. With eps = 1 plain gossip leaves the victim where it was.

    Attributes:
        eps: 1.5 in the paper's runs; any finite number.

    Raises:
        InputError: another eps than a finite number.
    """

    eps: float = 1.5
    least_knowledge: ClassVar[Knowledge] = "all"
    equivocates: ClassVar[bool] = True
    needs_graph: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.eps", self.eps)

    def lie(self, view: View) -> Tensor:
        secrets = view.secrets
        weight = torch.from_numpy(_mixing(secrets)[secrets.victims]).to(secrets.targets.dtype)
        honest, malicious = weight[:, secrets.nodes], weight[:, view.nodes].sum(1, keepdim=True)
        pull = honest @ secrets.vectors - honest.sum(1, keepdim=True) * secrets.targets
        return per_link(view, secrets.targets - self.eps * pull / malicious)


@dataclass(frozen=True, kw_only=True)
class SpectralHeterogeneity(UpdateAttack):
    """Push the two least connected halves of the honest graph apart, along their difference.

    Victim i is told x_i + c v_i (v^T X), with X the honest vectors and v the Fiedler vector: the
    eigenvector to the second eigenvalue of the Laplacian of the honest graph, with the mixing
    weights. c, from 0.01 to 1,000, is what moves the victim's result farthest from the honest mean.
    Gaucher, Dieuleveut, Hendrikx, "Unified breakdown analysis for Byzantine robust gossip", ICML
    2025. The authors' code steps c by 1 first and doubles (16 questions), and takes the norm of the
    result for its distance. Where the honest graph falls apart, v tells the parts apart.
    """

    knowledge: Knowledge = "defence"
    least_knowledge: ClassVar[Knowledge] = "defence"
    equivocates: ClassVar[bool] = True
    needs_graph: ClassVar[bool] = True

    def lie(self, view: View) -> Tensor:
        secrets = view.secrets
        mixing = _mixing(secrets)
        fiedler = _fiedler(mixing[np.ix_(secrets.nodes, secrets.nodes)])
        entry = np.zeros(len(mixing))
        entry[secrets.nodes] = fiedler
        at = torch.from_numpy(entry[secrets.victims]).to(secrets.vectors.dtype)
        apart = torch.from_numpy(fiedler).to(secrets.vectors.dtype) @ secrets.vectors
        return farthest(view, secrets.targets, at.unsqueeze(-1) * apart)


def _mixing(secrets: Secrets) -> NDArray[np.float64]:
    """(n, n) mixing weights W[receiver, sender] of the links, with a diagonal of zeros."""
    if secrets.graph is None or secrets.weight is None:
        raise InputError("attack: needs neighbours; use a topology without a server")
    own = np.zeros(secrets.graph.nodes, np.float32)
    return secrets.graph.matrix(secrets.weight.numpy(), own)


def _fiedler(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h,) unit vector of (h, h) weights."""
    weight = (weight + weight.T) / 2
    laplacian = np.diag(weight.sum(1)) - weight
    return np.linalg.eigh(laplacian)[1][:, :2][:, -1]
