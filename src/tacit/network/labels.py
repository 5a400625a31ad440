"""The labels that a site learns from under randomised response: drawn once, and kept."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tacit.data.federation import Federation, Split
from tacit.errors import InputError
from tacit.experiment import Experiment
from tacit.network.identity import write
from tacit.protection import RandomisedResponse
from tacit.protection.sampling import secure


def answered(experiment: Experiment, data: Federation, node: int, folder: Path) -> Federation:
    """The federation as a node learns from it: with the training labels that it answers, if so.

    A second answer to the same question would tell more of a label than the first, hence answers
    lie in the folder. The randomness is the operating system's.

    Args:
        data: with the rows of ``node``.
        folder: of the run at this site.

    Raises:
        InputError: the file of answers is damaged, or of other rows.
    """
    for part in experiment.protection:
        if isinstance(part, RandomisedResponse):
            break
    else:
        return data
    splits = list(data.train.parts())
    x, y = splits[node]
    path = folder / f"labels-{experiment.digest()[:16]}"
    if not path.exists():
        drawn = part.answer(secure(), y.numpy(), data.classes)
        write(path, save({"labels": torch.from_numpy(drawn)}), secret=True)
    try:
        labels = load(path.read_bytes())["labels"]
    except (SafetensorError, KeyError):
        raise InputError(f"{path}: the file is damaged") from None
    if labels.shape != y.shape or labels.dtype != y.dtype:
        raise InputError(f"{path}: the labels of {len(labels)} rows; the data have {len(y)}")
    splits[node] = x, labels
    return replace(data, train=Split.pack(splits))
