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
TOLERANCE = 0.01  # of the sum of absolute attributions: a larger delta needs more steps
NOISE = 1e-4  # log-odds: a delta that float32 alone explains does not


class TimeIsUp(Exception):
    """Raised by `progress` to end the work."""


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
    types: Sequence[int] | None = None,
    *,
    rows_at_once: int,
    progress: Callable[[float], None],
) -> Gradients:
    """Return the attributions with the fewest of `STEPS` that converge, or with the most.

    Args:
        network: the served network; it can answer other calls at the same time.
        baseline: as many ids as the text has.
        types: `token_type_ids` of the text, for a model that gets them.
        progress: called before every forward pass with the share done of the most that may be needed. It may raise
            `TimeIsUp`; the result is then that of the last round.

    Raises:
        TimeIsUp: before the first round was done.
    """
    forward, table = twin(network).of_task(task)
    device = next(table.parameters()).device
    text, padding = (torch.tensor([row], device=device) for row in (ids, baseline))
    inputs = [torch.ones_like(text), *([] if types is None else [torch.tensor([types], device=device)])]
    rows_done = 0

    def score(rows: Tensor, *others: Tensor) -> Tensor:
        nonlocal rows_done
        progress(min(rows_done / sum(STEPS), 1.0))
        rows_done += len(rows)
        logits: Tensor = forward(rows, *others).double()
        if logits.shape[1] == 1:  # as `classifier.widened`
            logits = nn.functional.pad(logits, (1, 0))
        if multi_label:
            return logits[:, label]
        return logits[:, label] - torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).logsumexp(1)

    with torch.no_grad():
        start = table(padding)
        value = float(score(text, *inputs))
        hook = table.register_forward_hook(lambda *_: start)
        # With the text's ids, not the baseline's: some networks (RoBERTa) derive positions from where padding is.
        at_baseline = float(score(text, *inputs))
        hook.remove()
    method = LayerIntegratedGradients(score, table)
    result: Gradients | None = None
    for steps in STEPS:
        try:
            parts = method.attribute(
                text, padding, additional_forward_args=tuple(inputs), n_steps=steps, internal_batch_size=rows_at_once
            )
        except TimeIsUp:
            if result is None:
                raise
            break
        except torch.OutOfMemoryError:
            raise OutOfMemory(
                f"The gradients of a text of {len(ids):,} tokens do not fit into the memory of {device}. Use "
                "method='occlusion', or load the model with a smaller batch_size."
            ) from None
        attributions = parts.sum(-1)[0].detach().double().cpu().numpy()
        delta = float(attributions.sum() - (value - at_baseline))
        converged = abs(delta) <= max(NOISE, TOLERANCE * float(np.abs(attributions).sum()))
        result = Gradients(attributions, value, at_baseline, delta, steps, converged)
        if converged:
            break
    assert result is not None  # the first round is done, or TimeIsUp was raised
    return result


def twin(network: nn.Module) -> Any:
    """Copy the structure of a network around the same tensors.

    Captum adds hooks to layers, and adapters are switched in place: on the served network that would change the answers
    of concurrent calls.
    """
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
