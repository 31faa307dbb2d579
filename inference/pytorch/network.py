"""The PyTorch network of a bundle: encoder, pooling, one head per task."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inference.errors import BundleError, InferenceError, import_failure, import_lock
from inference.formats.architectures import has_segments, max_positions, read_config
from inference.formats.files import count_stored, read_json
from inference.formats.tokenizer import check_transformers_config, quiet_transformers
from inference.pytorch.proof import bounded_build, check_architecture, prove

if TYPE_CHECKING:
    from inference.formats.bundle import Bundle, HeadShape

# PEFT imports it if installed, and it then warns about a missing kernel, whatever the model.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Network(nn.Module):
    """Encoder, pooling and heads: token ids in, one tensor of logits per task out."""

    encoder: Any  # a transformers model, possibly wrapped by PEFT

    def __init__(
        self,
        encoder: Any,
        hidden_size: int,
        task_sizes: Mapping[str, int],
        pooling: str = "mean",
        shape: HeadShape | None = None,
        *,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls", "max"):
            raise BundleError(f"Unknown pooling {pooling!r}. Known: mean, cls, max.")
        self.encoder = encoder
        self.pooling = pooling
        self.normalize = normalize
        try:
            self.heads = nn.ModuleDict({task: _head(hidden_size, size, shape) for task, size in task_sizes.items()})
        except KeyError as error:  # "type", "values", …
            raise BundleError(f"A task cannot have the name of a PyTorch attribute: {error}. Rename it.") from None

    @property
    def tasks(self) -> list[str]:
        """Names in the order of the outputs."""
        return list(self.heads)

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.encoder.config

    def of_task(self, task: str) -> tuple[Callable[..., Tensor], nn.Module]:
        """Return a function from the inputs to the logits of one task, and its table of word embeddings."""
        head = self.heads[task]
        return lambda *inputs: head(self.pooled(*inputs)), self.encoder.get_input_embeddings()

    def pooled(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return sentence vectors, float32 (batch, hidden)."""
        vectors = self._pooled(model_inputs(self.config, input_ids, attention_mask, token_type_ids), attention_mask)
        return nn.functional.normalize(vectors, dim=1) if self.normalize else vectors

    def _pooled(self, inputs: dict[str, Tensor], attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(**inputs).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0].float()
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling == "max":
            return hidden.masked_fill(weights == 0, torch.finfo(hidden.dtype).min).amax(1).float()
        return ((hidden * weights).sum(1) / weights.sum(1)).float()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the logits of every task in the order of the heads, each float32 (batch, labels).

        Args:
            input_ids: int64 (batch, tokens).
            attention_mask: int64 (batch, tokens), 1 for a token and 0 for padding.
            token_type_ids: int64 (batch, tokens), the segment of each token; for a model that distinguishes them.
        """
        pooled = self.pooled(input_ids, attention_mask, token_type_ids)
        return tuple(head(pooled) for head in self.heads.values())


def model_inputs(
    config: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
) -> dict[str, Tensor]:
    """Return the arguments of a transformers model with this configuration."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if token_type_ids is not None and has_segments(config.model_type, getattr(config, "type_vocab_size", 0)):
        inputs["token_type_ids"] = token_type_ids
    return inputs


def _head(inputs: int, labels: int, shape: HeadShape | None) -> nn.Module:
    if shape is None or not shape.hidden:
        return nn.Linear(inputs, labels)
    layers: list[nn.Module] = []
    for width in shape.hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[shape.activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, labels))


def load_encoder(folder: Path) -> Any:
    """Load the base encoder in `folder`, converted to float32.

    Attention is `eager`: the only form whose trace ONNX Runtime fuses, and on a CPU the faster one for short texts. So
    the exported network is the one that answers.
    """
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    config_file = folder / "config.json"
    check_architecture(read_json(config_file), MODEL_MAPPING_NAMES, "model", config_file)
    check_transformers_config(folder)
    with quiet_transformers(), bounded_build(folder):  # it would report the base's unused pooler
        encoder, loading_info = AutoModel.from_pretrained(
            folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    # transformers fills in what is missing at random, and only warns. The pooler is not used.
    if missing := sorted(name for name in loading_info["missing_keys"] if not name.startswith("pooler.")):
        raise BundleError(f"The encoder in {folder} lacks {len(missing)} weights, including {missing[0]}. Restore it.")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # `Network` pools by itself; an adapter on this one would be unused
    return encoder


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence the warning that PEFT uses a deprecated property of transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def load_network(bundle: Bundle, base: Path | None = None) -> Network:
    """Load the bundle's network with its adapter merged, in float32 and evaluation mode, on the CPU."""
    bundle.verify()
    home = bundle.base_folder(base)
    config = read_config(home)
    _check_heads(bundle, config)
    with as_bundle_error(bundle.folder):
        from safetensors.torch import load_file

        encoder = load_encoder(home)
        hidden_size = encoder.config.hidden_size
        positions = max_positions(config) if "max_position_embeddings" in config else bundle.max_tokens
        if bundle.max_tokens > positions:
            raise BundleError(
                f"{bundle.folder} reads {bundle.max_tokens} tokens; its base has positions for {positions}. Correct "
                "max_tokens in bundle.json."
            )
        sizes = {name: len(task.labels) for name, task in bundle.tasks.items()}
        if bundle.adapter_folder is not None:
            encoder = merge_adapter(encoder, bundle.adapter_folder)
        network = Network(
            encoder, hidden_size, sizes, bundle.pooling or "mean", bundle.heads, normalize=bundle.normalize
        )
        network.heads.load_state_dict(load_file(bundle.heads_file))
    check_finite(network, bundle.folder)
    return prove(network, bundle)


def unmap(network: nn.Module) -> None:
    """Copy the weights in main memory, which can be views of a memory-mapped file.

    Writing to that file later would change the answers, and truncating it would end the process.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _check_heads(bundle: Bundle, config: Mapping[str, Any]) -> None:
    """Raise BundleError if the heads of bundle.json are larger than the file that holds them."""
    hidden = int(config.get("hidden_size", config.get("dim", 1)))
    described = 0
    for task in bundle.tasks.values():
        widths = [hidden, *bundle.heads.hidden, len(task.labels)]
        described += sum((before + 1) * after for before, after in itertools.pairwise(widths))
    stored = count_stored([bundle.heads_file])
    if described > stored:
        raise BundleError(
            f"The weights in {bundle.folder} do not fit the network that bundle.json describes: its heads have "
            f"{described:,} weights, and {bundle.heads_file.name} holds {stored:,}. Restore the model folder."
        )


@contextlib.contextmanager
def as_bundle_error(folder: Path) -> Iterator[None]:
    """Convert whatever transformers, PEFT and safetensors raise for weights that do not fit to a BundleError.

    One thread at a time: these libraries import more of themselves as they load.

    Raises:
        MissingDependencyError: an import failed, which says nothing about the weights.
    """
    with import_lock:
        try:
            yield
        except InferenceError:
            raise
        except Exception as error:  # the classes of these libraries share no base
            failure = import_failure(error, "The model on PyTorch", "-r requirements.txt")
            if failure is not None:
                raise failure from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if "ignore_mismatched_sizes" in reason:  # it refers to a report that was printed
                reason = "its tensors have other shapes than config.json says"
            raise BundleError(
                f"The weights in {folder} do not fit the network that it describes: {reason}. Restore the model folder."
            ) from error


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Merge the PEFT adapter in a folder into the weights of `model`."""
    with quiet_peft():
        return attach_adapter(model, adapter).merge_and_unload()


def attach_adapter(model: Any, adapter: Path, name: str = "default") -> Any:
    """Return `model` with the PEFT adapter in a folder on it; it may have others already.

    Raises:
        BundleError: the installed PEFT does not know a setting of the adapter, or their weights do not belong together.
            PEFT would leave out the one and the other, and only warn.
    """
    from peft import PeftModel

    _check_settings(adapter)
    homeless: list[str] = []
    first = not isinstance(model, PeftModel)
    hook = (model if first else model.get_base_model()).register_load_state_dict_post_hook(
        lambda _, keys: homeless.extend(key for key in keys.unexpected_keys if ".modules_to_save." not in key)
    )
    # By default PEFT reads the weights onto a GPU if there is one, wherever the model is.
    options: dict[str, Any] = {"local_files_only": True, "torch_device": "cpu"}
    try:
        with quiet_peft(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            if first:
                model = PeftModel.from_pretrained(model, str(adapter), name, **options)
                lacking = []
            else:
                lacking = model.load_adapter(str(adapter), name, **options).missing_keys
    except (KeyError, UserWarning) as error:  # of a module that modules_to_save names, or of a layer
        lacking = re.findall(r"'([^']+)'", str(error)) or [str(error)]
    finally:
        hook.remove()
    if lacking or homeless:
        problem = f"it lacks {lacking[0][:200]}" if lacking else f"the base has no place for {homeless[0][:200]}"
        raise BundleError(
            f"The adapter in {adapter} does not fit its base: {problem}. Name the base that it was trained on "
            "(--base), or save the adapter again."
        )
    return model


def _check_settings(adapter: Path) -> None:
    """Raise BundleError if the adapter has a setting that the installed PEFT does not know, and that is on."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, __version__

    path = adapter / "adapter_config.json"
    config = read_json(path)
    known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]])}
    if unknown := sorted(name for name, value in config.items() if value and name not in known | {"runtime_config"}):
        raise BundleError(
            f"{path}: PEFT {__version__} does not know {', '.join(unknown)[:200]} and would ignore it. Install the "
            f"version that wrote the adapter ({str(config.get('peft_version') or 'not recorded')[:30]}), or save it "
            "without that setting."
        )


def check_finite(network: nn.Module, folder: Path) -> None:
    """Raise BundleError if a weight is NaN or infinite."""
    for name, tensor in network.state_dict().items():
        # Weights that were offloaded to disk are on "meta" and have no values.
        if tensor.is_floating_point() and not tensor.is_meta and not _is_finite(tensor):
            raise BundleError(
                f"The weights in {folder} are damaged: {name} holds NaN or infinity. Restore the model folder."
            )


def _is_finite(tensor: Tensor) -> bool:
    # A sum keeps NaN and infinity and takes a tenth of the time; finite values may overflow it.
    return bool(torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all())


def best_dtype(device: torch.device) -> str:
    """Return the default dtype of a network on this device."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def cast_encoder(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights to `dtype` in place; pooling and heads of a bundle stay in float32."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        network.to(dtype)
    elif dtype != torch.float32:
        encoder.to(dtype)
        encoder.register_forward_hook(_cast_output_to_float32)


def _cast_output_to_float32(_: nn.Module, __: Any, output: Any) -> Any:
    # A mean over 512 tokens needs more digits than its summands have.
    output.last_hidden_state = output.last_hidden_state.float()
    return output


def has_fixed_device(network: nn.Module) -> bool:
    """Return whether its weights must stay where they are: in 4 bits, or spread over several devices."""
    quantized = getattr(getattr(network, "config", None), "quantization_config", None) is not None
    return quantized or any(hasattr(module, "hf_device_map") for module in network.modules())


def use_sdpa(network: nn.Module) -> None:
    """Switch attention to PyTorch's fused kernels if the architecture supports them.

    Only for GPUs: on a CPU `eager` is faster for short texts, and it is the only one that can be exported.
    """
    for module in network.modules():
        if getattr(module, "_supports_sdpa", False) and hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("sdpa")  # type: ignore[operator]
