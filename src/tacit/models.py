"""Small reference models; every function returns a fresh ``torch.nn.Module``.

Any other module serves as well. These are the ones that the literature compares on, and each can be
traced by ``torch.fx``.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.errors import InputError


def logistic(features: int, classes: int) -> nn.Module:
    """Multinomial logistic regression; with ``classes=1`` and a BCE or squared loss, one output.

    Maps (B, ...) inputs of ``features`` values each to (B, classes) logits.

    Raises:
        InputError: a size below 1.
    """
    return mlp(features, classes)


def mlp(*sizes: int) -> nn.Module:
    """A multilayer perceptron with ReLU between its layers: ``mlp(30, 64, 2)``.

    Maps (B, ...) inputs of ``sizes[0]`` values each, flattened, to (B, sizes[-1]) logits.

    Raises:
        InputError: fewer than two sizes, or a size below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"sizes: {sizes} was given; give two or more positive layer widths")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def two_nn() -> nn.Module:
    """The "2NN" for MNIST: (B, 1, 28, 28) or (B, 784) to (B, 10) logits, 199,210 parameters.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017, section 3.
    """
    return mlp(784, 200, 200, 10)


def cnn() -> nn.Module:
    """The CNN for MNIST: (B, 1, 28, 28) to (B, 10) logits, 1,663,370 parameters.

    Source: McMahan et al., AISTATS 2017, section 3. The parameter count implies convolutions that
    keep the image's size; ReLU after each is the reading of TensorFlow Federated's
    ``create_original_fedavg_cnn_model``.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def char_lstm(
    vocabulary: int = 65, embedding: int = 8, hidden: int = 256, layers: int = 2
) -> nn.Module:
    """A stacked character-level LSTM: (B, T) int64 tokens to (B, T, vocabulary) logits.

    Position t predicts token t + 1. Source: McMahan et al., AISTATS 2017, section 3 (T = 80).
    """
    return nn.Sequential(
        OrderedDict(
            embedding=nn.Embedding(vocabulary, embedding),
            lstm=nn.LSTM(embedding, hidden, layers, batch_first=True),
            outputs=_Outputs(),
            head=nn.Linear(hidden, vocabulary),
        )
    )


def transformer(
    vocabulary: int = 65, context: int = 80, width: int = 128, heads: int = 4, layers: int = 2
) -> nn.Module:
    """A small causal transformer: (B, T) int64 tokens, T <= context, to (B, T, vocabulary) logits.

    Position t predicts token t + 1 and sees no token after t. Learned positions, layer norm before
    each part, GELU, no dropout. Source: Radford et al., "Language models are unsupervised multitask
    learners", 2019, section 2.3 (GPT-2), scaled down.

    Raises:
        InputError: ``width`` is not a multiple of ``heads``.
    """
    if width % heads:
        raise InputError(f"heads: {heads} was given; give a divisor of the width {width}")
    return nn.Sequential(
        OrderedDict(
            token=nn.Embedding(vocabulary, width),
            position=_Position(context, width),
            blocks=nn.Sequential(*[_Block(width, heads) for _ in range(layers)]),
            norm=nn.LayerNorm(width),
            head=nn.Linear(width, vocabulary),
        )
    )


class _Outputs(nn.Module):
    """Keeps the (B, T, hidden) outputs of a recurrent layer and drops its last state."""

    def forward(self, result: tuple[Tensor, object]) -> Tensor:
        return result[0]


class _Position(nn.Module):
    """Adds a learned vector per position to (B, T, width)."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(context, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.size(1)]


class _Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each added to its input (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(normed)),
            self._split(self.key(normed)),
            self._split(self.value(normed)),
            is_causal=True,
        )
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(x)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, heads, T, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
