"""What colluding attackers work out about the honest nodes from what they see."""

import torch
from torch import Tensor

from tacit.attacks.view import View


def mean_change(view: View) -> Tensor:
    """(d,) the mean of what training changed in each vector of the sample: the honest direction."""
    return (view.sample - view.sample_starts).mean(0)


def spread(vectors: Tensor) -> Tensor:
    """(d,) standard deviation of (s, d) vectors, divided by s - 1; 0 where there is only one."""
    return vectors.std(0) if len(vectors) > 1 else torch.zeros_like(vectors[0])


def from_all(view: View, lie: Tensor) -> Tensor:
    """(b, d): every malicious node sends the same (d,) lie."""
    return lie.expand(len(view.nodes), -1)
