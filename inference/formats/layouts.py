"""Layouts that people have and that are not served: what each is, and the one remedy.

A folder, or a file that was named instead of one, is looked up here when no format fits.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from inference.errors import BundleError
from inference.formats.files import LARGE_JSON_BYTES, inside, read_json_in

MAX_NAMED = 5  # folders of models in a message


class Layout(NamedTuple):
    """Files that one of these globs matches, what they are, and what to do: {0} is the path, {1} the files' folders."""

    marks: tuple[str, ...]
    what: str
    remedy: str


EMBEDDER = Layout(
    ("modules.json",),
    "is a sentence-transformers model: it embeds texts and has no labels",
    "Train a head on it: python -m training --help",
)
_SAVE = "Serve a classifier that save_pretrained wrote for PyTorch"
_SOURCE = "Name the folder of safetensors that it was made from"
# In the order in which they are tried; {} is the folder.
LAYOUTS = (
    Layout(
        ("*.incomplete", "*.part", "*.crdownload", ".cache/huggingface/download/**/*.incomplete"),
        "is an unfinished download",
        "Fetch it again",
    ),
    EMBEDDER,
    Layout(
        ("global_step*", "*_optim_states.pt", "*_model_states.pt"),
        "holds the weights in the shards of DeepSpeed",
        "Join them: python -m deepspeed.utils.zero_to_fp32 {} OUT --safe_serialization",
    ),
    Layout(
        ("pytorch_model_fsdp*", "*.distcp"),
        "holds the weights in the shards of FSDP",
        "Join them: accelerate merge-weights {}/pytorch_model_fsdp_0 OUT",
    ),
    Layout(
        ("tf_model.h5", "tf_model-*.h5", "flax_model.msgpack"),
        "has weights for TensorFlow or Flax only",
        "Save it for PyTorch with transformers 4: from_pretrained(…, from_tf=True or from_flax=True)",
    ),
    Layout(("*.gguf", "*.ggml"), "holds a model for llama.cpp (GGUF)", _SOURCE),
    Layout(
        ("openvino_model.xml", "*.tflite", "*.mlmodel", "*.mlpackage", "*.engine", "*.plan", "*.pte", "rust_model.ot"),
        "holds a model compiled for another runtime",
        _SOURCE,
    ),
    Layout(("*.keras", "*.h5", "*.hdf5", "saved_model.pb"), "holds a Keras model", _SAVE),
    Layout(("config.cfg",), "is a pipeline of spaCy", _SAVE),
    Layout(("*.skops", "*.joblib", "*.pkl", "*.pickle"), "holds a scikit-learn model or another pickle", _SAVE),
    Layout(("*.ftz", "*.vec"), "holds a fastText model", _SAVE),
    Layout(
        ("pytorch_model*.bin", "model*.safetensors", "adapter_model.*"),
        "has weights without their config.json (or adapter_config.json)",
        "Put it beside them, or save the model with save_pretrained",
    ),
    Layout(("*.pt", "*.pth", "*.ckpt", "*.bin"), "holds a checkpoint in a format of its own", _SAVE),
    Layout(
        ("*model_quantized.onnx", "*/model_quantized.onnx"),
        "has a quantised ONNX graph only, and INT8 is made and judged here by the FP32 graph",
        "Put model.onnx beside it",
    ),
    Layout(
        ("*.onnx",),
        "has an ONNX graph without the labels and the tokenizer that belong to it",
        "Put its config.json and its tokenizer beside it",
    ),
    Layout(
        ("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z", "*.rar"),
        "is an archive, or holds one",
        "Extract it and name the folder with the model",
    ),
    Layout(
        ("snapshots/*/config.json",), "is a repository in the Hugging Face cache", "Name the folder in its snapshots"
    ),
    Layout(
        ("*/config.json", "*/adapter_config.json", "*/bundle.json"),
        "is not a model itself, but contains models",
        "Name one of them: {1}",
    ),
    Layout(("adapter_config.json", "config.json"), "has a configuration and no weights", "Fetch the whole model again"),
)


def refuse_file(path: Path) -> None:
    """Raise BundleError if this is a file, which cannot be a model folder."""
    try:
        if not path.is_file():
            return
        in_model = any((path.parent / name).is_file() for name in ("config.json", "adapter_config.json", "bundle.json"))
    except (OSError, ValueError):  # no file can have such a name
        return
    if not in_model:
        refuse_layout(path)
    raise BundleError(f"{path} is a file. Name the folder of the model{f': {path.parent}' if in_model else ''}.")


def refuse_layout(path: Path) -> None:
    """Raise BundleError if a folder or a file is one of `LAYOUTS`, or a folder holds checkpoints of a training."""
    if is_folder := path.is_dir():
        refuse_checkpoints(path)
    for layout in LAYOUTS:
        found = (file for mark in layout.marks for file in (path.glob(mark) if is_folder else _itself(path, mark)))
        if files := list(islice(found, MAX_NAMED)):
            names = ", ".join(sorted({file.parent.name for file in files}))
            raise BundleError(f"{path} {layout.what}. {layout.remedy.format(path, names)}.")


def _itself(path: Path, mark: str) -> list[Path]:
    return [path] if path.match(mark) else []


def refuse_embedder(folder: Path) -> None:
    """Raise BundleError if a folder without a head is a model of sentence-transformers."""
    if (folder / EMBEDDER.marks[0]).exists():
        raise BundleError(f"{folder} {EMBEDDER.what}. {EMBEDDER.remedy}.")


def pickle_error(folder: Path) -> BundleError:
    """Return the error for a folder whose weights or heads are a pickle: how to convert it."""
    if (folder / "task_heads.pt").exists():
        what, kind = "is a RapidFit checkpoint, whose heads are a pickle", "rapidfit"
    elif (folder / "model_head.pkl").exists():
        what, kind = "is a SetFit model, whose head is a pickle", "setfit"
    else:
        for path in folder.glob("*_model*.bin"):
            inside(folder, path.name)
        if "ForSequenceClassification" not in str(read_json_in(folder, "config.json").get("architectures")):
            refuse_embedder(folder)  # an import would not help
        what, kind = "has its weights as a pickle (*.bin)", "weights"
    return BundleError(
        f"{folder} {what}: opening one can run code. If you trust it, convert it once: python -m inference import "
        f"{kind} {folder} OUT"
    )


def refuse_weights(folder: Path) -> None:
    """Raise BundleError for a model without model.safetensors and without shards."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if names:
        raise BundleError(
            f"{folder} has no model.safetensors and no index of shards; it has {', '.join(names[:4])}. Rename a single "
            "file to model.safetensors; several need their index, so save the model again."
        )
    if any(folder.glob("pytorch_model*.bin")):
        raise pickle_error(folder)
    refuse_layout(folder)


def refuse_checkpoints(folder: Path) -> None:
    """Raise BundleError, naming the one to serve, if the subfolders of `folder` are checkpoints of a training."""
    steps = {}
    for at in folder.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d{1,18})", at.name)
        if number and any((at / name).is_file() for name in ("config.json", "adapter_config.json")):
            steps[int(number[1])] = at.name
    if not steps:
        return
    last = steps[max(steps)]
    best = _best(folder) or _best(folder / last)
    which = "the best of them by trainer_state.json" if best in steps.values() else "the last of them"
    names = ", ".join(steps[step] for step in sorted(steps)[:3]) + (", …" if len(steps) > 3 else "")
    raise BundleError(
        f"{folder} holds checkpoints of one training ({names}) and no model beside them. Name the one to serve; "
        f"{which}: {folder / (best if best in steps.values() else last)}"
    )


def _best(folder: Path) -> str:
    """Return the name of the best checkpoint that the state of a Trainer records, if it can be read."""
    try:
        path = read_json_in(folder, "trainer_state.json", LARGE_JSON_BYTES).get("best_model_checkpoint")
    except BundleError:  # the last checkpoint can be served without it
        return ""
    # It can be the path of another machine.
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] if isinstance(path, str) else ""
