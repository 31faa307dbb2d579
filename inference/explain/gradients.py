"""Integrated gradients on a PyTorch network, by Captum, from padding to the text (Sundararajan et al. 2017).

The baseline has the padding token in place of every word and keeps the special tokens, at the same positions. Gradients
are those of the label's log-odds with respect to the word embeddings, summed over their width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.backends import OutOfMemory

STEPS = (32, 64, 128, 256)
TOLERANCE = 0.01  # of all attributions, taken without their signs: a larger delta is worth more steps
NOISE = 1e-4  # log-odds; what float32 leaves is no reason for more steps


class TimeIsUp(Exception):
    """Raised by `tick` to end the work."""


@dataclass(frozen=True)
class Gradients:
    """Integrated gradients of one text."""

    attributions: NDArray[np.float64]
    """Per token; 0 for special ones, which the baseline has too."""
    value: float
    """Log-odds of the text."""
    baseline: float
    """Log-odds of the baseline."""
    convergence_delta: float
    """Sum of the attributions minus (value - baseline)."""
    n_steps: int
    converged: bool


def integrate(
    network: Any,
    task: str,
    label: int,
    multi_label: bool,
    ids: Sequence[int],
    baseline: Sequence[int],
    *,
    rows_at_once: int,
    tick: Callable[[float], None],
) -> Gradients:
    """The attributions with the fewest of `STEPS` that converge, or with the most.

    Args:
        network: as PyTorch serves it; it may answer others meanwhile.
        baseline: as many ids as the text has.
        tick: called before every forward pass with the share done of all that may be needed. It may raise `TimeIsUp`,
            which gives what the last round found.

    Raises:
        TimeIsUp: not even one round was done.
    """
    forward, table = twin(network).of_task(task)
    device = next(table.parameters()).device
    text, padding = (torch.tensor([row], device=device) for row in (ids, baseline))
    mask = torch.ones_like(text)
    passed, most = 0, sum(STEPS)

    def score(rows: Tensor, masks: Tensor) -> Tensor:
        nonlocal passed
        tick(min(passed / most, 1.0))
        passed += len(rows)
        logits: Tensor = forward(rows, masks).double()
        mine = logits[:, label]
        if multi_label:
            return mine
        return mine - torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).logsumexp(1)

    with torch.no_grad():
        start = table(padding)
        value = float(score(text, mask))
        with_baseline = table.register_forward_hook(lambda *_: start)
        # Not of the ids of the baseline: some networks (RoBERTa's) take the positions from where padding is.
        at_baseline = float(score(text, mask))
        with_baseline.remove()
    method = LayerIntegratedGradients(score, table)
    found: Gradients | None = None
    for steps in STEPS:
        try:
            parts = method.attribute(
                text, padding, additional_forward_args=(mask,), n_steps=steps, internal_batch_size=rows_at_once
            )
        except TimeIsUp:
            if found is None:
                raise
            break
        except torch.OutOfMemoryError:
            raise OutOfMemory(
                f"The gradients of a text of {len(ids):,} tokens do not fit into the memory of {device}. Take "
                "method='occlusion', or load the model with a smaller batch_size."
            ) from None
        attributions = parts.sum(-1)[0].detach().double().cpu().numpy()
        delta = float(attributions.sum() - (value - at_baseline))
        converged = abs(delta) <= max(NOISE, TOLERANCE * float(np.abs(attributions).sum()))
        found = Gradients(attributions, value, at_baseline, delta, steps, converged)
        if converged:
            break
    assert found is not None  # the first round is done, or TimeIsUp was raised
    return found


def twin(network: nn.Module) -> Any:
    """A copy of the network's structure on the same tensors.

    Captum hangs its hooks on the layers that it is given, and adapters are switched in place: in the network that
    serves, whoever asks at the same time would get an answer to another text.
    """
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
