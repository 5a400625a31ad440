"""What attackers work out about the honest nodes from what they see, and what they draw."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from tacit.attacks.view import View
from tacit.randomness import generator


def mean_change(view: View) -> Tensor:
    """(d,) the mean of what training changed in each vector of the sample: the honest direction."""
    return (view.sample - view.sample_starts).mean(0)


def spread(vectors: Tensor) -> Tensor:
    """(d,) standard deviation of (s, d) vectors, divided by s - 1; 0 where there is only one."""
    return vectors.std(0) if len(vectors) > 1 else torch.zeros_like(vectors[0])


def from_all(view: View, lie: Tensor) -> Tensor:
    """(b, d): every malicious node sends the same (d,) lie."""
    return lie.expand(len(view.nodes), -1)


def drawn(view: View, purpose: str, draw: Callable[[Generator], NDArray[np.floating]]) -> Tensor:
    """(b, d) what each malicious node draws, anew in every round, in the type of its vector."""
    each = [draw(generator(view.seed, purpose, view.round, int(node))) for node in view.nodes]
    return torch.from_numpy(np.stack(each)).to(view.own.dtype)
