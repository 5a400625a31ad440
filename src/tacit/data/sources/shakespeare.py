"""Tiny Shakespeare, a speaker a node: guess the next character.

Source of the task: McMahan et al., "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, section 3.
"""

from string import ascii_lowercase, ascii_uppercase

import numpy as np
import torch

from tacit.data.files import File
from tacit.data.partition import ByKey
from tacit.data.rows import Rows
from tacit.data.source import Source

VOCABULARY = "\n !$&',-.3:;?" + ascii_uppercase + ascii_lowercase
WINDOW = 80


def parse(data: bytes) -> Rows:
    """Rows with x (N, 80) character ids and y (N, 80), the character after each.

    A speaker's speeches are joined by line ends, in the order of the text, and cut into windows
    that do not overlap; the last, incomplete one is dropped. A name such as "First Citizen" that
    several plays use is one speaker.
    """
    ids = np.zeros(128, np.int64)
    ids[list(VOCABULARY.encode())] = np.arange(len(VOCABULARY))
    windows, speakers = [], []
    for speaker, speech in _speeches(data.decode()).items():
        text = ids[list(speech.encode())]
        count = (len(text) - 1) // WINDOW
        windows += [text[i * WINDOW : (i + 1) * WINDOW + 1] for i in range(count)]
        speakers += [speaker] * count
    window = torch.from_numpy(np.stack(windows))
    return Rows(
        window[:, :-1].contiguous(),
        window[:, 1:].contiguous(),
        "sequence",
        len(VOCABULARY),
        keys={"speaker": np.array(speakers)},
        ordered=True,
    )


def _speeches(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        speaker, _, speech = block.strip().partition(":\n")
        if speech:
            found.setdefault(speaker, []).append(speech)
    return {speaker: "\n".join(speeches) for speaker, speeches in found.items()}


SHAKESPEARE = Source(
    name="shakespeare",
    description="windows of 80 characters, one speaker a node; which character comes next",
    task="sequence",
    rows=12_293,
    nodes=156,
    licence="public domain",
    home="github.com/karpathy/char-rnn (MIT)",
    parse=parse,
    files=(
        File(
            "tiny_shakespeare/input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "https://raw.githubusercontent.com/karpathy/char-rnn/"
            "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        ),
    ),
    partition=ByKey("speaker", min_rows=10),
    scaling="none",
)
