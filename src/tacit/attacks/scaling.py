"""Updates made larger, so that averaging with the honest ones does not wash them out.

Each makes the most of a poisoned update: give a data attack (a backdoor) and one of these, in a
sequence, to the same nodes.
"""

from dataclasses import dataclass

from torch import Tensor

from tacit.attacks.base import UpdateAttack
from tacit.attacks.view import Knowledge, View
from tacit.errors import require_number


@dataclass(frozen=True, kw_only=True)
class Scaling(UpdateAttack):
    """Send start + factor * (own - start).

    Attributes:
        factor: by which the own update is multiplied; any finite number.

    Raises:
        InputError: another factor than a finite number.
    """

    factor: float = 10.0
    knowledge: Knowledge = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.factor", self.factor)

    def lie(self, view: View) -> Tensor:
        return view.starts + self.factor * (view.own - view.starts)


@dataclass(frozen=True, kw_only=True)
class ModelReplacement(UpdateAttack):
    """Scale the update so that the mean over n senders becomes the liar's model.

    Bagdasaryan et al., "How to backdoor federated learning", AISTATS 2020, section 4.2: G + (n/eta)
    (X - G), for a mean that counts senders alike. Liars who know of each other ("colluders") share
    the factor, or together they would overshoot as often as there are of them; the paper has one.
    Without a server n still counts all senders, so that few neighbours overshoot.

    Attributes:
        server_lr: eta, the server's learning rate; above 0.
        norm_bound: largest norm of the change that is sent, to pass a defence that judges by norms
            (the paper's train-and-scale; its constrain-and-scale changes the training loss
            instead); None: no bound.

    Raises:
        InputError: a setting out of its range.
    """

    server_lr: float = 1.0
    norm_bound: float | None = None
    knowledge: Knowledge = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("attack.server_lr", self.server_lr, above=0)
        require_number("attack.norm_bound", self.norm_bound, above=0, none=True)

    def lie(self, view: View) -> Tensor:
        factor = view.everyone / (self.server_lr * len(view.nodes))
        change = factor * (view.own - view.starts)
        if self.norm_bound is not None:
            norm = change.norm(dim=1, keepdim=True)
            change = change * (self.norm_bound / norm.clamp(min=self.norm_bound))
        return view.starts + change
