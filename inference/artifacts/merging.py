"""Export an adapter merged into its base as a plain Hugging Face classifier."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from inference import cpu
from inference.artifacts import parity
from inference.assets import showcase_texts
from inference.classifier import Classifier
from inference.errors import InputError
from inference.formats.architectures import max_positions
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.files import read_json
from inference.formats.identity import check_same
from inference.formats.pairs import pairs_entry
from inference.formats.tokenizer import TOKENIZER, quiet_transformers, read_tokenizer, save_tokenizer, write_tokenizer
from inference.pytorch.backend import TorchBackend
from inference.pytorch.huggingface import load_merged, load_switched

if TYPE_CHECKING:
    from torch import nn


def export_merged(
    model: str | Path,
    out: Path,
    *,
    task: str | None = None,
    base: Path | None = None,
    load_in_4bit: bool = False,
    max_tokens: int | None = None,
    pairs: bool | None = None,
) -> dict[str, float]:
    """Write the merged model to the folder `out`, which `AutoModelForSequenceClassification` can load.

    A base in 4 bits is dequantised and merged in float32.

    Args:
        task: the adapter to merge, if there are several.
        max_tokens: the tokenizer's `model_max_length`; default: the model's own limit.
        pairs: as for `describe`.

    Returns:
        As `inference.artifacts.parity.differences` of merged and unmerged answers on the showcase.

    Raises:
        InputError: the model has no adapter, `task` is not one of its tasks, or `out` exists and is not empty.
        BundleError: the model or its base cannot be read.
    """
    bundle = described = describe(model, base, four_bit=load_in_4bit, pairs=pairs)
    if not bundle.adapters:
        raise InputError(
            f"{model} has no PEFT adapter to merge. Name the folder of one (it has adapter_config.json) with --model."
        )
    task = task or (next(iter(bundle.tasks)) if len(bundle.tasks) == 1 else "")
    if task not in bundle.tasks:
        raise InputError(f"{model} has {len(bundle.tasks)} tasks; name one of them: {', '.join(bundle.tasks)}.")
    # This adapter alone, under its name: other tasks can have other labels.
    bundle = replace(bundle, tasks={task: bundle.tasks[task]}, adapters={task: bundle.adapters[task]})
    positions = max_positions(read_json(bundle.base_folder(base) / "config.json"))
    if max_tokens is not None and not 8 <= max_tokens <= positions:
        raise InputError(f"max_tokens={max_tokens} must be from 8 to {positions}, the positions of the model.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty. Name a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.tmp-") as staging:
        folder = Path(staging) / "merged"
        folder.mkdir()
        write_tokenizer(bundle, folder / TOKENIZER, base)
        networks = (load_switched(bundle, base), load_merged(bundle, base))
        unmerged, merged = (_score(bundle, network, folder / TOKENIZER) for network in networks)
        with quiet_transformers():
            network = cast(Any, networks[1]).models[0]
            config = network.config
            config.update(pairs_entry(folder, config.to_dict(), bundle.tasks[task], bundle.pairs))
            network.save_pretrained(folder)
        save_tokenizer(
            folder / TOKENIZER, folder, max_tokens or bundle.max_tokens, bundle.pad_id, pairs=bundle.token_types
        )
        check_same(described, base)
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return parity.differences(unmerged, merged)[task]


def _score(bundle: Bundle, network: nn.Module, tokenizer: Path) -> dict[str, parity.Matrix]:
    backend = TorchBackend(network, threads=cpu.cores())
    return parity.score_matrix(
        Classifier(bundle, backend, read_tokenizer(bundle, tokenizer)), parity.as_read(bundle, showcase_texts())
    )
