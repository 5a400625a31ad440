"""The arena's own grid: ten attacks, ten defences, a server and a graph, on handwritten digits.

tacit arena benchmarks/arena.py --folder /tmp/arena

220 runs of 30 nodes and 30 rounds, those without attack included. Finished cells are kept in the
folder, so that only a fresh one can be timed.
"""

import torch.nn.functional as F

import tacit

experiment = tacit.Experiment(
    data=tacit.data.load("digits", 30, tacit.data.Dirichlet(0.5), seed=0),
    model=lambda: tacit.models.mlp(64, 32, 10),
    loss=F.cross_entropy,
    training=tacit.SGD(lr=0.1, batch_size=16, epochs=1),
    rounds=30,
)
