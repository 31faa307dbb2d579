"""Quantise the base for QLoRA (Dettmers et al. 2023): linear layers in 4-bit NormalFloat, double quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inference.errors import MissingDependencyError

# As written into the bundle, with the names of transformers' BitsAndBytesConfig.
QUANTISATION = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}


def quantise(encoder: nn.Module) -> None:
    """Replace every linear layer of `encoder` by its 4-bit form, which PEFT puts adapters on.

    The heads are not part of the encoder and stay as they are.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    linear4bit, params4bit = _bitsandbytes()
    for parent in list(encoder.modules()):
        for name, layer in parent.named_children():
            if type(layer) is not nn.Linear:
                continue
            small = linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, torch.float32, True, "nf4"
            )
            small.weight = params4bit(
                layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            small.bias = None if layer.bias is None else layer.bias.requires_grad_(False)
            # On some processors the first forward pass in evaluation mode repacks the weights into a form without
            # gradients. Disabled, because early stopping evaluates in the middle of a run.
            small.support_avx512bf16_for_cpu = False
            setattr(parent, name, small.to("cpu"))  # moving it quantises it
    encoder.is_loaded_in_4bit = True  # type: ignore[assignment]  # where PEFT looks


def _bitsandbytes() -> tuple[Any, Any]:
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise MissingDependencyError(
            f"--method qlora needs the library {error.name}. Install it: pip install -r requirements-qlora.txt"
        ) from None
    return Linear4bit, Params4bit
