"""The PyTorch network of a bundle: encoder, pooling, one head per task."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inference.errors import BundleError

if TYPE_CHECKING:
    from inference.bundle import Bundle, Heads

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Network(nn.Module):
    """Encoder, pooling and heads: token ids in, one tensor of logits per task out."""

    encoder: Any  # a transformers model, with or without PEFT around it

    def __init__(
        self,
        encoder: Any,
        hidden_size: int,
        task_sizes: Mapping[str, int],
        pooling: str = "mean",
        shape: Heads | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls", "max"):
            raise BundleError(f"Unknown pooling {pooling!r}. Known: mean, cls, max.")
        self.encoder = encoder
        self.pooling = pooling
        try:
            self.heads = nn.ModuleDict({task: _head(hidden_size, size, shape) for task, size in task_sizes.items()})
        except KeyError as error:  # "type", "values", …
            raise BundleError(
                f"A task cannot be called what PyTorch calls a part of its own: {error}. Rename it."
            ) from None

    @property
    def tasks(self) -> list[str]:
        """Names in the order of the outputs."""
        return list(self.heads)

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.encoder.config

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence vectors, float32 (batch, hidden)."""
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling == "max":
            return hidden.masked_fill(weights == 0, torch.finfo(hidden.dtype).min).amax(1).float()
        return ((hidden * weights).sum(1) / weights.sum(1)).float()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits of every task in the order of the heads, each float32 (batch, labels).

        Args:
            input_ids: int64 (batch, tokens).
            attention_mask: int64 (batch, tokens), 1 for a token and 0 for padding.
        """
        pooled = self.pooled(input_ids, attention_mask)
        return tuple(head(pooled) for head in self.heads.values())


def _head(inputs: int, labels: int, shape: Heads | None) -> nn.Module:
    if shape is None or not shape.hidden:
        return nn.Linear(inputs, labels)
    layers: list[nn.Module] = []
    for width in shape.hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[shape.activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, labels))


def load_encoder(folder: Path) -> Any:
    """The base encoder in `folder`, in float32 whatever dtype it was stored in.

    Attention is `eager`: the only form whose trace ONNX Runtime fuses, and on CPU the faster one for
    short texts, so that the network that is exported is the network that answers.
    """
    from transformers import AutoModel

    with quiet_transformers():  # the base's unused pooler is no news to the caller
        encoder = AutoModel.from_pretrained(
            folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # `Network` pools by itself; an adapter on this one would be dead weight
    return encoder


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of transformers: what matters in them is said by us."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers for a property by its old name, and each time the user would be told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def load_network(bundle: Bundle, base: Path | None = None) -> Network:
    """The bundle's network with its adapter merged, in float32 and evaluation mode, on the CPU.

    Raises:
        BundleError: a file is missing or differs from its digest, or tensors do not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    bundle.verify()
    encoder = load_encoder(bundle.base_folder(base))
    hidden_size = encoder.config.hidden_size
    positions = getattr(encoder.config, "max_position_embeddings", bundle.max_tokens)
    if bundle.max_tokens > positions:
        raise BundleError(f"{bundle.folder} reads {bundle.max_tokens} tokens; its base has positions for {positions}.")
    sizes = {name: len(task.labels) for name, task in bundle.tasks.items()}
    try:
        if bundle.adapter_folder is not None:
            encoder = merge(encoder, bundle.adapter_folder)
        network = Network(encoder, hidden_size, sizes, bundle.pooling or "mean", bundle.heads)
        network.heads.load_state_dict(load_file(bundle.heads_file))
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, UserWarning, SafetensorError) as error:
        raise BundleError(
            f"The weights in {bundle.folder} do not fit the network that bundle.json describes: {error}"
        ) from error
    check_finite(network, bundle.folder)
    return network.eval()


def merge(model: Any, adapter: Path) -> Any:
    """`model` with the PEFT adapter of a folder merged into its weights.

    Raises:
        UserWarning: the adapter lacks weights. PEFT would only warn, and answer with the bare base.
    """
    from peft import PeftModel

    with quiet_peft():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(model, str(adapter), local_files_only=True).merge_and_unload()


def check_finite(network: nn.Module, folder: Path) -> None:
    """Raise BundleError if a weight is NaN or infinite."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"The weights in {folder} are damaged: {name} holds NaN or infinity.")
