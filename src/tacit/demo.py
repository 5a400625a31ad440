"""The experiment of ``tacit demo``: eight places, bundled data, a minute at most."""

from dataclasses import replace

from torch.nn.functional import cross_entropy

from tacit import data, models
from tacit.experiment import Experiment
from tacit.training.optimizers import SGD

STORY = (
    "Eight post offices of very unequal size learn to read handwritten digits, each from its own"
    " letters: the 1,797 digits of the UCI test set (bundled with scikit-learn), dealt out by"
    " QuantitySkew(sigma=1.0); each office keeps 40 % of its rows for testing."
)


def experiment(seed: int = 0) -> Experiment:
    """FedAvg over eight offices with 19 to 409 training rows (for seed 0).

    A small office has too few letters to learn from alone, a large one has enough: so the first
    should gain, and the second should not.
    """
    dealt = data.load("digits", 8, data.QuantitySkew(sigma=1.0), test_fraction=0.4, seed=seed)
    return Experiment(
        data=replace(dealt, names=tuple(f"office {number}" for number in range(1, 9))),
        model=lambda: models.mlp(64, 64, 10),
        loss=cross_entropy,
        training=SGD(lr=0.1, batch_size=16),
        rounds=30,
        seed=seed,
    )
