"""PyTorch networks of Hugging Face classifiers, with or without PEFT adapters."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from inference.errors import BundleError, InputError, MissingDependencyError
from inference.formats.architectures import HEADS
from inference.formats.bundle import Bundle
from inference.formats.files import read_json, tensors, wrapper_pattern
from inference.formats.tokenizer import check_transformers_config, quiet_transformers
from inference.formats.weights import weight_files
from inference.pytorch.network import (
    as_bundle_error,
    attach_adapter,
    best_dtype,
    check_finite,
    load_network,
    merge_adapter,
    model_inputs,
)
from inference.pytorch.proof import bounded_build, check_architecture, prove

# Settings of a config that change what forward returns, or which lengths it takes, but no answer.
NEUTRAL = {"return_dict": True, "output_attentions": False, "output_hidden_states": False, "chunk_size_feed_forward": 0}
# Tensors in many files that no classifier uses: the pre-training heads, counters and masks.
UNUSED = re.compile(
    r"(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|attention\.bias|coder\.version)$"
    r"|^(cls|lm_head|vocab_\w+|mlm|qa_outputs|\w*predictions|final_logits_bias)\.|(^|\.)pooler\."
)


class SequenceNetwork(nn.Module):
    """One sequence classifier of transformers per task, with one pass each because their encoders differ."""

    def __init__(self, models: dict[str, Any]) -> None:
        super().__init__()
        self.tasks = list(models)
        self.models = nn.ModuleList(models.values())  # by number: a module cannot have every name that a task can

    @property
    def config(self) -> Any:
        """The first model's configuration; all share one base."""
        return self.models[0].config

    def of_task(self, task: str) -> tuple[Callable[..., Tensor], nn.Module]:
        """As `network.Network.of_task`."""
        return _of_model(self.models[self.tasks.index(task)])

    def alone(self) -> list[SequenceNetwork]:
        """Return each task's classifier as a network of its own."""
        return [SequenceNetwork({task: model}) for task, model in zip(self.tasks, self.models, strict=True)]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """As `network.Network.forward`."""
        return tuple(sequence_logits(model, input_ids, attention_mask, token_type_ids) for model in self.models)


class AdapterNetwork(nn.Module):
    """One base and the adapters of several tasks, switched from task to task. Not thread-safe."""

    def __init__(self, model: Any, tasks: list[str]) -> None:
        super().__init__()
        self.tasks = tasks
        self.model = model  # a PeftModel whose adapters are called task0, task1, …

    @property
    def config(self) -> Any:
        return self.model.config

    def of_task(self, task: str) -> tuple[Callable[..., Tensor], nn.Module]:
        """As `network.Network.of_task`; it switches the network to the task."""
        self.model.set_adapter(f"task{self.tasks.index(task)}")
        return _of_model(self.model.get_base_model())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """As `network.Network.forward`."""
        logits = []
        for number in range(len(self.tasks)):
            self.model.set_adapter(f"task{number}")
            logits.append(sequence_logits(self.model.get_base_model(), input_ids, attention_mask, token_type_ids))
        return tuple(logits)


def _of_model(model: Any) -> tuple[Callable[..., Tensor], nn.Module]:
    if model.config.is_encoder_decoder:
        raise InputError("Every word enters an encoder-decoder twice, so its gradients are not defined. Use occlusion.")
    return lambda *inputs: sequence_logits(model, *inputs), model.get_input_embeddings()


def sequence_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
) -> Tensor:
    """Return the logits of a sequence classifier, float32 (batch, labels); a decoder's are those of the last token.

    The last token is the last one of the mask. transformers takes the last id that is not pad_token_id, which can be
    missing from the config, or the id of a token that a text contains. BART and T5 take the last EOS token; in
    transformers, all texts of a batch must have the same number of them.

    Raises:
        InputError: BART or T5, and a text without EOS.
    """
    inputs = model_inputs(model.config, input_ids, attention_mask, token_type_ids)
    head = _token_head(model)
    if head is None:
        return cast(Tensor, model(**inputs).logits.float())
    if model.config.is_encoder_decoder and hasattr(model, "_shift_right"):  # the others shift by themselves
        inputs["decoder_input_ids"] = model._shift_right(input_ids)
    hidden: Tensor = model.base_model(**inputs, use_cache=False)[0]
    candidates = attention_mask
    if hasattr(model, "classification_head"):
        candidates = attention_mask * (input_ids == model.config.eos_token_id)
        if not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export() and not candidates.any(1).all():
            raise InputError(
                f"A text does not end with the token {model.config.eos_token_id} (eos_token_id), at which this model "
                "is read. Use the tokenizer from training, which adds it."
            )
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    last = (candidates * positions).argmax(1).to(hidden.device)
    return head(hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]).float()


def _token_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what is applied to the hidden state of a token; None for models that pool by themselves."""
    if hasattr(model, "classification_head"):
        return cast(Callable[[Tensor], Tensor], model.classification_head)
    if model.config.model_type == "modernbert-decoder":
        return lambda hidden: model.classifier(model.head(hidden))
    head: Callable[[Tensor], Tensor] | None = model.classifier if model.config.model_type == "ctrl" else None
    return getattr(model, "score", head)  # in transformers only decoders have a head of this name


def load_served(bundle: Bundle, base: Path | None = None, device: str = "cpu", dtype: str | None = None) -> nn.Module:
    """Load the network that PyTorch serves, in evaluation mode.

    A single adapter is merged into its base. Several are switched on one base if they leave it alone; else each is
    merged into one of its own. On a base in 4 bits none is merged.

    Args:
        device: "auto" spreads the network over all GPUs and the main memory, in `dtype`. With any other, it is float32
            on the CPU, except for a base in 4 bits, which is loaded where it runs.

    Raises:
        InputError: device="auto" for a bundle.
        BundleError: weights are missing, do not fit or are damaged.
        MissingDependencyError: bitsandbytes is needed and not installed.
    """
    if bundle.format == "bundle":
        if device == "auto":
            raise InputError(
                f"device='auto' spreads Hugging Face classifiers; {bundle.name} is a bundle and runs on one device. "
                "Load it with device='cuda', or with device='cpu' if it does not fit."
            )
        return load_network(bundle, base)
    switched = bundle.four_bit or (len(bundle.adapters) > 1 and bundle.shares_base)
    return (load_switched if switched else load_merged)(bundle, base, device, dtype)


def load_switched(
    bundle: Bundle, base: Path | None = None, device: str = "cpu", dtype: str | None = None
) -> AdapterNetwork | SequenceNetwork:
    """Load it with the adapters unmerged, as PEFT runs them: on one base, or each on its own (`Bundle.shares_base`)."""
    home = bundle.base_folder(base)
    models: dict[str, Any] = {}
    with as_bundle_error(bundle.folder):
        for number, (task, at) in enumerate(bundle.adapters.items()):
            model = next(iter(models.values())) if models and bundle.shares_base else None
            if model is None:
                options = _options(bundle, home, device, dtype)
                model = _load(home, len(bundle.tasks[task].outputs), bundle, task, options)
            models[task] = attach_adapter(model, bundle.folder / at, f"task{number}")
        if bundle.four_bit:
            for model in models.values():
                _keep_unpacked(model)
        shared = models[next(iter(models))]
        network = AdapterNetwork(shared, list(models)) if bundle.shares_base else SequenceNetwork(models)
    check_finite(network, bundle.folder)
    return prove(network, bundle)


def load_merged(bundle: Bundle, base: Path | None = None, device: str = "cpu", dtype: str | None = None) -> nn.Module:
    """Load it with every adapter merged, in plain float32 weights, as needed for an export.

    A base in 4 bits is converted to float32 first, so that merging does not round again. Tensors that no adapter
    changes are shared between the tasks.
    """
    if bundle.format == "bundle":
        return load_network(bundle, base)
    home = bundle.base_folder(base)
    models: dict[str, Any] = {}
    with as_bundle_error(bundle.folder):
        for task, spec in bundle.tasks.items():
            model = _load(home, len(spec.outputs), bundle, task, _options(bundle, home, device, dtype))
            if bundle.four_bit:
                model = model.dequantize().float()
            if bundle.adapters:
                model = merge_adapter(model, bundle.folder / bundle.adapters[task])
            if models:
                _share(model, next(iter(models.values())))
            model.config.id2label = dict(enumerate(spec.outputs))
            model.config.label2id = spec.to_config()["label2id"]
            model.config.problem_type = spec.to_config()["problem_type"]
            models[task] = model
    network = SequenceNetwork(models)
    check_finite(network, bundle.folder)
    return prove(network, bundle)


def load_classifier(
    folder: Path, labels: int | None = None, brought: Set[str] = frozenset(), **options: Any
) -> tuple[Any, list[str], list[str]]:
    """Load the classifier in a folder; return it, the tensors that are missing, and those that it does not use.

    Args:
        brought: names of tensors that an adapter brings. They are not missing, and can have other sizes in the folder.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    path = folder / "config.json"
    check_architecture(read_json(path), MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "text classifier", path)
    check_transformers_config(folder)
    sizes = {} if labels is None else {"num_labels": labels}
    stored = [name for file in weight_files(folder) for name in tensors(file)]
    wrapper = wrapper_pattern(stored)
    # transformers replaces the first match of each pattern; a comment makes them different keys.
    count = min(9, max(len(re.findall(wrapper, name)) for name in stored)) if wrapper else 0
    with quiet_transformers(), bounded_build(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, loading_info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=bool(brought),
            key_mapping={f"{wrapper}(?#{number})": "" for number in range(count)} or None,
            **NEUTRAL,
            **sizes,
            **({"dtype": torch.float32} | options),
        )
    if any(name not in brought for name, *_ in loading_info["mismatched_keys"]):
        raise BundleError(
            f"The weights in {folder} do not fit the network that it describes: its tensors have other shapes than "
            "config.json says. Restore the model folder."
        )
    return model, sorted(set(loading_info["missing_keys"]) - brought), sorted(loading_info["unexpected_keys"])


def _load(home: Path, labels: int, bundle: Bundle, task: str, options: dict[str, Any]) -> Any:
    stored = tensors(bundle.folder / bundle.adapters[task] / "adapter_model.safetensors") if bundle.adapters else {}
    brought = {name.removeprefix("base_model.model.") for name in stored}
    model, missing, unused = load_classifier(home, labels, brought, **options)
    remedy = "Save the model with its head."
    if bundle.adapters:
        remedy = "Train the adapter with their modules in modules_to_save, or name a base that has them (--base)."
    if missing:
        raise BundleError(
            f"{bundle.folder} lacks {len(missing)} tensors of its network, which would be random: "
            f"{', '.join(missing[:6])}{', …' if len(missing) > 6 else ''}. {remedy}"
        )
    check_used(model, [name for name in unused if not bundle.adapters or not name.startswith(HEADS)], home)
    if rows := bundle.table_rows.get(task):
        with quiet_transformers():
            model.resize_token_embeddings(rows, mean_resizing=False)  # the adapter brings all rows that are new
    return model


def check_used(model: Any, unused: list[str], folder: Path) -> None:
    """Raise BundleError if the files hold parts of the network that it lacks: it was trained with them."""
    encoder = model.base_model
    inside = (f"{model.base_model_prefix}.", *(f"{name}." for name in HEADS))
    inside += tuple(f"{name}." for name, _ in encoder.named_children())
    lost = [name for name in unused if encoder is not model and name.startswith(inside) and not UNUSED.search(name)]
    if lost:
        raise BundleError(
            f"{folder} holds {len(lost)} tensors of the network that are not used: {', '.join(lost[:4])}"
            f"{', …' if len(lost) > 4 else ''}. The answers would differ from those of training: restore the "
            "config.json from training."
        )


def _options(bundle: Bundle, home: Path, device: str, dtype: str | None) -> dict[str, Any]:
    """Return device and dtype of the weights as arguments of `from_pretrained`."""
    if bundle.four_bit:
        return _four_bit(home, device)
    if device != "auto":
        return {}
    dtype = dtype or best_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {"device_map": "auto", "dtype": getattr(torch, dtype)}


def _four_bit(home: Path, device: str) -> dict[str, Any]:
    """Return the options for a base as in QLoRA: NF4 with double quantisation, the head in full precision."""
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "A base in 4 bits needs bitsandbytes. Install it: pip install -r requirements-qlora.txt"
        ) from None
    config = read_json(home / "config.json")
    # "auto" spreads a base that does not fit over all devices; a CPU is one device.
    options: dict[str, Any] = {"device_map": {"": "cpu"} if device == "cpu" else "auto"}
    if not config.get("quantization_config"):
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if device == "cpu" else torch.bfloat16,
            # A 4-bit head costs accuracy, and the CPU kernel refuses its few rows.
            llm_int8_skip_modules=list(HEADS),
        )
    return options


def _keep_unpacked(model: Any) -> None:
    """Prevent bitsandbytes from repacking the 4-bit weights that it cannot, or that PEFT reads beside it.

    On a processor with AVX-512 BF16 it repacks weights at their first use, in blocks of 32 rows. DoRA would then take
    its norms from the repacked bytes.
    """
    for layer in model.modules():
        weights = layer.base_layer if getattr(layer, "lora_magnitude_vector", None) else layer
        if hasattr(weights, "support_avx512bf16_for_cpu"):
            quantized = weights.weight.quant_state
            if weights is not layer or quantized.shape[0] % 32 or quantized.shape[1] % quantized.blocksize:
                weights.support_avx512bf16_for_cpu = False


def _share(model: nn.Module, first: nn.Module) -> None:
    """Replace the tensors of `model` that equal those of `first` by the latter."""
    theirs = dict(first.named_parameters())
    for name, value in list(model.named_parameters()):
        other = theirs.get(name)
        if other is None or other.shape != value.shape or other.device != value.device or value.is_meta:
            continue
        if torch.equal(other, value):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, other)
