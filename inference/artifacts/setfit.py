"""Read what SetFit and sentence-transformers write: the modules of the body, and the head, a pickle that is not run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.artifacts.pickles import Instance, as_array, read_pickle, read_stream
from inference.errors import BundleError
from inference.formats.bundle import ACTIVATIONS, MULTI, POOLINGS, SINGLE
from inference.formats.files import JSON_BYTES, OTHER_BYTES, check_bytes, inside, read_json, read_json_in

HEAD = "model_head.pkl"
CONFIG = "config_setfit.json"
_REGRESSIONS = ("LogisticRegression", "LogisticRegressionCV")
_POOLING_NAMES = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
_TEXT_SETTINGS = ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name")
_FOLDER = re.compile(r"[\w-]{0,64}")
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}
Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weight (outputs, inputs) and bias of a linear layer."""


class Head(NamedTuple):
    """A linear layer, and the labels of its outputs."""

    layer: Layer
    labels: list[str]
    problem_type: str


class Body(NamedTuple):
    """A sentence-transformers model of an encoder, a pooling and perhaps layers after it."""

    encoder: Path
    pooling: str
    normalize: bool
    dense: list[tuple[Path, str]]
    """Folder and activation of each dense layer after the pooling."""
    max_length: int | None
    lower_case: bool
    """Texts are lower-cased before they are tokenized."""


def read_head(folder: Path) -> Head:
    """Return the head of the SetFit model in a folder.

    Raises:
        BundleError: it is damaged, or not a kind that one linear layer can represent.
    """
    path = inside(folder, HEAD)
    names = read_json_in(folder, CONFIG).get("labels")
    head = read_pickle(path, OTHER_BYTES)
    try:
        if not isinstance(head, Instance):
            raise ValueError(f"it holds a {type(head).__name__}")
        kind = head.maker.rpartition(".")[2]
        if kind in _REGRESSIONS:
            return _regression(head.state, names)
        if kind in ("OneVsRestClassifier", "MultiOutputClassifier"):
            return _multi_label(kind, head.state, names)
        if kind == "SetFitHead":
            return _torch_head(head.state, names)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise BundleError(f"{path} is not a head that can be imported: {error}. Train SetFit's own kinds.") from None
    raise BundleError(
        f"{path} is a {head.maker[:80]}, whose answers a linear layer cannot give. Train SetFit with its logistic "
        "regression (one-vs-rest or multi-output for several labels), or with its differentiable head."
    )


def _regression(state: Mapping[str, Any], names: Any) -> Head:
    """Return the layer whose softmax is predict_proba of a logistic regression."""
    classes, (weight, bias) = as_array(state["classes_"]), _coefficients(state)
    if len(classes) == 2:
        row, offset = _log_odds(state)
        layer = np.stack([np.zeros_like(row), row]), np.array([0.0, offset])
        return Head(layer, _labels(classes.tolist(), names), SINGLE)
    method = state.get("multi_class", "multinomial")
    if method == "ovr" or (method != "multinomial" and state.get("solver") == "liblinear"):
        raise ValueError("one regression per label, their probabilities divided by the sum, which is not a softmax")
    if len(weight) != len(classes):
        raise ValueError(f"{len(weight)} rows for {len(classes)} labels")
    return Head((weight, bias), _labels(classes.tolist(), names), SINGLE)


def _multi_label(kind: str, state: Mapping[str, Any], names: Any) -> Head:
    estimators = state["estimators_"]
    binarizer = state["label_binarizer_"].state if kind == "OneVsRestClassifier" else {"y_type_": "multilabel"}
    if binarizer["y_type_"] not in ("multilabel", "multilabel-indicator", "multilabel-sequences"):
        raise ValueError("one regression per label, their probabilities divided by the sum, which is not a softmax")
    for estimator in estimators:
        if estimator.maker.rpartition(".")[2] not in _REGRESSIONS:
            raise ValueError(f"a label is predicted by {estimator.maker[:80]}, not by a logistic regression")
        if as_array(estimator.state["classes_"]).tolist() != [0, 1]:
            raise ValueError("a label has other values than 0 and 1")
    rows = [_log_odds(estimator.state) for estimator in estimators]
    layer = np.stack([row for row, _ in rows]), np.array([offset for _, offset in rows])
    if names is not None and len(names) != len(rows):
        raise ValueError(f"{len(names)} names for {len(rows)} labels")
    return Head(layer, _labels(list(range(len(rows))), names), MULTI)


def _log_odds(state: Mapping[str, Any]) -> tuple[NDArray[np.float64], float]:
    """Return weights and bias of the log-odds of the second of two classes."""
    weight, bias = _coefficients(state)
    if len(weight) != 1:
        raise ValueError(f"{len(weight)} rows for 2 labels")
    # Asked for a softmax over two classes, scikit-learn takes that of [-z, z].
    factor = 2.0 if state.get("multi_class") == "multinomial" else 1.0
    return factor * weight[0], factor * float(bias[0])


def _coefficients(state: Mapping[str, Any]) -> Layer:
    weight = as_array(state["coef_"]).astype(np.float64)
    bias = np.broadcast_to(as_array(state["intercept_"]).astype(np.float64), weight.shape[:1])
    if weight.ndim != 2 or not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise ValueError("its coefficients are damaged")
    return weight, bias


def _torch_head(state: Mapping[str, Any], names: Any) -> Head:
    parameters = state["_modules"]["linear"].state["_parameters"]
    weight = _tensor(parameters["weight"])
    bias = np.zeros(len(weight)) if parameters.get("bias") is None else _tensor(parameters["bias"])
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not np.isfinite(weight).all() or len(weight) < 2:
        raise ValueError("its weights are damaged")
    scale = float(state["temperature"]) + float(state.get("eps", 0.0))
    labels = _labels(list(range(len(weight))), names)
    return Head((weight / scale, bias / scale), labels, MULTI if state.get("multitarget") else SINGLE)


def _tensor(parameter: Instance) -> NDArray[np.float64]:
    """Return a pickled torch parameter, whose values are in a file of the old format of torch.save."""
    tensor = parameter.arguments[0] if parameter.maker == "torch._utils._rebuild_parameter" else parameter
    storage, offset, shape, strides, *_ = tensor.arguments
    if tensor.maker != "torch._utils._rebuild_tensor_v2" or storage.maker != "torch.storage._load_from_bytes":
        raise ValueError("its weights are not tensors")
    file = io.BytesIO(storage.arguments[0])
    *_, saved, _ = [read_stream(file) for _ in range(5)]  # magic number, version, machine; storage; its key
    file.read(8)  # the number of values
    values = np.frombuffer(file.read(), _STORAGES[saved.arguments[1].path.rpartition(".")[2]])
    contiguous = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    if list(strides) != contiguous or not 0 <= offset <= offset + int(np.prod(shape)) <= len(values):
        raise ValueError("its weights are incomplete")
    return values[offset : offset + int(np.prod(shape))].reshape(shape).astype(np.float64)


def _labels(classes: list[Any], names: Any) -> list[str]:
    """Return the names of the classes: they are names themselves, or positions in `names`, if there are any."""
    if names is not None and not isinstance(names, list):
        raise ValueError(f"labels in {CONFIG} is not a list")
    if not all(isinstance(value, str | int | float) for value in classes):
        raise ValueError("its labels are neither names nor numbers")
    if not names or all(isinstance(value, str) for value in classes):
        return [str(value) for value in classes]
    if not all(0 <= int(value) < len(names) for value in classes):
        raise ValueError(f"{CONFIG} names {len(names)} labels, and the head has others")
    return [names[int(value)] for value in classes]


def read_body(folder: Path) -> Body:
    """Return the modules of the sentence-transformers model in a folder.

    Raises:
        BundleError: a module or a setting that a bundle cannot hold.
    """
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    settings = read_json_in(folder, CONFIG)
    if settings.get("normalize_embeddings") and kinds[-1:] != ["Normalize"]:
        kinds.append("Normalize")
    dense = kinds[3:] if kinds[2:3] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(dense) - {"Dense"}:
        raise BundleError(
            f"{folder} is a pipeline that a bundle cannot hold: {', '.join(kinds)}. Use Transformer, Pooling, then "
            "perhaps Normalize, then perhaps Dense layers."
        )
    stored = read_json_in(folder, "config_sentence_transformers.json")
    prompt, prompts = stored.get("default_prompt_name"), stored.get("prompts")
    if prompt and not (isinstance(prompt, str) and isinstance(prompts, dict) and prompts.get(prompt) == ""):
        raise BundleError(f"{folder} puts the prompt {str(prompt)[:60]!r} before every text. Train it without one.")
    encoder, pooling = modules[0][1], modules[1][1]
    text = read_json_in(encoder, "sentence_bert_config.json")
    unknown = [name for name, value in text.items() if value and name not in _TEXT_SETTINGS]
    if unknown or text.get("transformer_task", "feature-extraction") != "feature-extraction":
        path = encoder / "sentence_bert_config.json"
        raise BundleError(f"{path} has settings that are not known: {', '.join(unknown)[:200]}. Train it without them.")
    length = text.get("max_seq_length")
    if length is not None and type(length) is not int:
        raise BundleError(f"{encoder}: max_seq_length is {str(length)[:60]}, not a number of tokens. Restore it.")
    return Body(
        encoder,
        _pooling(pooling),
        "Normalize" in kinds,
        [_dense(at) for kind, at in modules if kind == "Dense"],
        length,
        bool(text.get("do_lower_case")),
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module."""
    path = inside(folder, "modules.json")
    check_bytes(path, JSON_BYTES)
    try:
        modules = [(str(entry["type"]), str(entry["path"])) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{path} is not a list of modules. Restore it.") from None
    for kind, at in modules:
        if not kind.startswith("sentence_transformers.") or not _FOLDER.fullmatch(at):
            raise BundleError(
                f"{path} names {kind[:80]!r}, which sentence-transformers does not have. Use its modules."
            )
    return [(kind.rpartition(".")[2], folder / at) for kind, at in modules]


def _pooling(folder: Path) -> str:
    config = read_json(inside(folder, "config.json"))
    modes = config.get("pooling_mode")  # the older form has a switch for each
    if modes is None:
        modes = [name.removeprefix("pooling_mode_") for name, value in config.items() if value is True]
        modes = [_POOLING_NAMES.get(mode, mode) for mode in modes if mode != "include_prompt"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in POOLINGS:
        raise BundleError(
            f"{folder} pools by {str(modes)[:80]}. Known: one of {', '.join(POOLINGS)}. Train it with one."
        )
    return str(modes[0])


def _dense(folder: Path) -> tuple[Path, str]:
    path = inside(folder, "config.json")
    name = str(read_json(path).get("activation_function")).rpartition(".")[2].lower()
    if name not in (*ACTIVATIONS, "identity"):
        raise BundleError(f"{path}: the activation {name[:60]!r} is not known. Known: {', '.join(ACTIVATIONS)}.")
    return folder, name


def read_linear(path: Path) -> Layer:
    """Return the linear layer in the file of a Dense module."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = load_file(path)
        weight = weights["linear.weight"].astype(np.float64)
        bias = weights["linear.bias"] if "linear.bias" in weights else np.zeros(len(weight))
    except (KeyError, TypeError, AttributeError, SafetensorError):
        raise BundleError(f"{path.parent.name} of the body holds no linear layer of float32. Restore it.") from None
    return weight, bias.astype(np.float64)


def by_name(layers: list[Layer], task: str) -> dict[str, NDArray[np.float32]]:
    """Return the layers of a head as `heads.safetensors` names them, in float32."""
    names = [f"{task}.{2 * step}" for step in range(len(layers))] if len(layers) > 1 else [task]
    return {
        f"{name}.{part}": np.ascontiguousarray(values, np.float32)
        for name, layer in zip(names, layers, strict=True)
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }


def layers_of(dense: list[tuple[Layer, str]], head: Head, path: Path) -> tuple[list[Layer], str]:
    """Return the layers of a bundle's head, and the activation between them; the last layer is that of `head`.

    Dense layers without an activation become part of the next layer.
    """
    names = {name for _, name in dense} - {"identity"}
    if len(names) > 1:
        raise BundleError(f"{path} has Dense layers with different activations. Train it with one.")
    layers: list[Layer] = []
    before: Layer | None = None
    width: int | None = None
    for (weight, bias), name in [*dense, (head.layer, "")]:
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or width not in (None, weight.shape[1]):
            raise BundleError(f"{path}: its layers do not fit each other. Restore it.")
        width = len(weight)
        if before is not None:
            weight, bias = weight @ before[0], weight @ before[1] + bias
        before = (weight, bias) if name == "identity" else None
        if before is None:
            layers.append((weight, bias))
    return layers, next(iter(names), ACTIVATIONS[0])
