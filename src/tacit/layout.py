"""A model is a vector: where each parameter and buffer lives in it.

The vector holds, in this order, every parameter that requires a gradient and every floating-point
buffer of the state dict (BatchNorm statistics and the like). What is the same for all nodes, frozen
parameters and constants such as attention masks, stays in the module.
"""

import copy
import fnmatch
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from tacit.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One tensor of the model: its name, shape, first position, and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    offset: int
    trained: bool

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of a model's vector.

    Attributes:
        entries: the tensors in order, the trained ones first.
        size: d, the length of the vector.
        trained: how many of its leading coordinates are trained; the rest are buffers.
    """

    entries: tuple[Entry, ...]
    size: int
    trained: int

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """The layout of ``module``; parameters that share storage (tied weights) appear once."""
        entries: list[Entry] = []
        offset = 0
        tensors: list[tuple[str, Tensor, bool]] = []
        tensors += [(name, p, True) for name, p in module.named_parameters() if p.requires_grad]
        saved = module.state_dict().keys()
        tensors += [
            (name, buffer, False)
            for name, buffer in module.named_buffers()
            if name in saved and buffer.is_floating_point() and buffer.isfinite().all()
        ]
        for name, tensor, trained in tensors:
            if tensor.dtype != torch.float32:
                raise InputError(
                    f"model: {name} has dtype {tensor.dtype}; only torch.float32 is supported"
                )
            entries.append(Entry(name, tuple(tensor.shape), offset, trained))
            offset += tensor.numel()
        trained_size = sum(entry.size for entry in entries if entry.trained)
        if trained_size == 0:
            raise InputError("model: it has no parameter that requires a gradient")
        return cls(tuple(entries), offset, trained_size)

    @property
    def parameters(self) -> "Layout":
        """The layout of the trained coordinates alone."""
        entries = tuple(entry for entry in self.entries if entry.trained)
        return Layout(entries, self.trained, self.trained)

    def views(self, vectors: Tensor) -> dict[str, Tensor]:
        """Each entry of (..., d) vectors as a (..., *shape) view, without copying."""
        lead = vectors.shape[:-1]
        return {e.name: vectors[..., e.slice].view((*lead, *e.shape)) for e in self.entries}

    def vector(self, module: nn.Module) -> Tensor:
        """The (d,) vector of a module's present values, as a copy."""
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        return torch.cat([tensors[e.name].detach().reshape(-1) for e in self.entries])

    def bind(self, module: nn.Module, vector: Tensor) -> None:
        """Make the module's tensors views of ``vector`` (d,)."""
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        for entry in self.entries:
            tensor = tensors[entry.name]
            tensor.data = vector[entry.slice].view(entry.shape)

    def module(self, template: nn.Module, vector: Tensor) -> nn.Module:
        """A copy of ``template`` that holds the values of ``vector`` (d,)."""
        result = copy.deepcopy(template)
        self.bind(result, vector.clone())
        return result

    def mask(self, *patterns: str) -> Tensor:
        """The coordinates whose entry's name matches a pattern, as a (d,) bool tensor.

        A pattern is a name (``"head"`` means everything under the submodule ``head``) or a shell
        wildcard.

        Raises:
            InputError: a pattern that matches nothing.
        """
        result = torch.zeros(self.size, dtype=torch.bool)
        for pattern in patterns:
            found = [
                e
                for e in self.entries
                if fnmatch.fnmatch(e.name, pattern) or e.name.startswith(pattern + ".")
            ]
            if not found:
                names = ", ".join(e.name for e in self.entries)
                raise InputError(f"no layer is called {pattern!r}; the model has {names}")
            for entry in found:
                result[entry.slice] = True
        return result


def template(model: "nn.Module | type[nn.Module] | object", seed: int) -> nn.Module:
    """A fresh module from the experiment's ``model``, initialised by ``seed`` alone.

    ``model`` is a function that makes a module, or a module (which is copied as it is).

    Raises:
        InputError: ``model`` does neither.
    """
    if isinstance(model, nn.Module):
        module = model
    else:
        if not callable(model):
            raise InputError(
                f"model: give a function that returns a torch.nn.Module, not {model!r}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = model()
        if not isinstance(made, nn.Module):
            raise InputError(f"model: the function returned {type(made).__name__}, not a Module")
        module = made
    try:
        module = copy.deepcopy(module)  # a function, too, may hand out a module that is the user's
    except RuntimeError as error:
        raise InputError(
            "model: it cannot be copied, as with the old weight_norm and spectral_norm;"
            " use those of torch.nn.utils.parametrizations"
        ) from error
    for part in module.modules():
        # BatchNorm counts its batches in an int64 buffer. As a float it rides in the vector, so
        # that no count leaks from one node into the next.
        if isinstance(getattr(part, "num_batches_tracked", None), torch.Tensor):
            part.num_batches_tracked = part.num_batches_tracked.float()
    return module
