"""Export a folder of ONNX files for use elsewhere: one graph per task, its labels, and the tokenizer.

    sentiment.onnx  sentiment_config.json  sentiment_int8.onnx     per task; logits in the output `logits`
    model.onnx  model_int8.onnx                                    all tasks in one pass, outputs `logits_<task>`
    *_weights.bin                                                  weights of the graph of the same name, past 2 GB
    tokenizer/                                                     for `AutoTokenizer` and for `tokenizers` alone
    export.json                                                    the SHA-256 of each of these files

Running it needs only ONNX Runtime, tokenizers and NumPy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference import cpu
from inference.artifacts import parity
from inference.assets import calibration_texts, showcase_texts
from inference.classifier import Classifier
from inference.errors import BundleError, ExportError, InferenceError, InputError
from inference.formats.bundle import PROBLEM_TYPES, SINGLE, Bundle, Task
from inference.formats.exported import EXPORT_LIST as LIST
from inference.formats.files import read_json, sha256
from inference.formats.pairs import pairs_entry
from inference.formats.tokenizer import save_tokenizer, tokenizer_max_length
from inference.onnx.backend import LOGITS, OUTPUT_PREFIX, ForeignGraph, OnnxBackend, logits_of
from inference.onnx.io import load_model, read_graph, save_model
from inference.onnx.join import check_mask, select, text_inputs
from inference.onnx.recipes import quantize_best

SHARED = "model"  # the graph with every task
TOKENIZER_FOLDER = "tokenizer"
MAX_TOKENS = 512  # of a calibration text if its tokenizer has no limit


def export_files(
    shared: Path,
    tokenizer_file: Path,
    out: Path,
    tasks: Mapping[str, Task],
    max_tokens: int,
    pad_id: int,
    *,
    pairs: bool = False,
    int8: Path | None = None,
    external_data: bool | None = None,
) -> list[Path]:
    """Write the ONNX files of these tasks into the folder `out` and return them.

    Other files of an earlier export of the same model are kept. With one task there is no `model.onnx`, which would be
    that task's graph again.

    Args:
        shared: the FP32 graph with an output `logits_<task>` per task.
        tokenizer_file: its tokenizer.json.
        max_tokens: tokens of a text that are read.
        pad_id: the padding token.
        pairs: the model takes pairs of texts.
        int8: the INT8 version of `shared`, to export too.
        external_data: weights in a file of their own: True always, False never, None past 2 GB.

    Raises:
        InputError: a task cannot be a file name here, or `out` holds a file that is not from such an export.
        ExportError: the graph lacks a task, is too large for `external_data=False`, cannot be loaded by ONNX Runtime,
            or cannot be written.
    """
    _check_names(tasks)
    for name in ("bundle.json", "adapter_config.json", "config.json"):
        if (out / name).exists():
            raise InputError(f"{out} is the folder of a model (it has {name}). Name a new folder to write to.")
    source = hashlib.sha256(f"{sha256(shared)} {sha256(tokenizer_file)} {max_tokens} {pad_id}".encode()).hexdigest()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}. Name another folder.") from None
    try:
        _write_graphs(shared, "", staging, tasks, external_data)
        if int8 is not None:
            _write_graphs(int8, "_int8", staging, tasks, external_data)
        for name, task in tasks.items():
            _write_json(staging / f"{name}_config.json", _config(staging, task, max_tokens, pairs))
        save_tokenizer(tokenizer_file, staging / TOKENIZER_FOLDER, max_tokens, pad_id, pairs=pairs)
        names = [path.relative_to(staging).as_posix() for path in sorted(staging.rglob("*")) if path.is_file()]
        _publish(staging, out, names, source)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}. Make room, or name another folder.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [out / name for name in names]


def quantize_onnx(path: str | Path, output_path: str | Path | None = None) -> Path:
    """Write an INT8 version of an FP32 text classifier, with one task or several, and return its path.

    It is made by the first recipe of `inference.onnx.recipes` whose answers on the showcase are close enough to those
    of the FP32 graph. Scales are fixed from Triptych's calibration texts, so a text's label never depends on its batch.
    Only outputs that are logits are kept.

    Args:
        path: the graph. The folder `tokenizer` beside it must hold the model's tokenizer.json.
        output_path: the file to write; default: `<name>_int8.onnx` beside `path`.

    Raises:
        InputError: no graph, no tokenizer beside it, or the file to write exists and is not from an export.
        BundleError: the graph or one of its files is forbidden or damaged.
        ExportError: it has nothing to convert, or cannot be written.
    """
    return quantize_graph(path, output_path)[0]


def quantize_graph(path: str | Path, output_path: str | Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Do the same and also return the result of `inference.onnx.recipes.quantize_best`."""
    path = Path(path)
    target = Path(output_path) if output_path is not None else path.with_stem(f"{path.stem}_int8")
    tokenizer_file = path.parent / TOKENIZER_FOLDER / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"No ONNX file {path}.")
    if not tokenizer_file.is_file():
        raise InputError(
            f"No tokenizer beside {path.name} (looked for {tokenizer_file}). INT8 takes its scales from texts: put the "
            "model's tokenizer.json there."
        )
    weights = target.with_name(f"{target.stem}_weights.bin")
    for file in (target, weights):
        _check_free(file, _listed(target.parent).get("files", {}), file.name)
    model = load_model(path)
    text_inputs(path, model)
    outputs = logits_of([output.name for output in model.graph.output])
    for name in outputs:
        check_mask(path, model, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.tmp-", dir=target.parent) as folder:
            plain, quantized = Path(folder) / "fp32.onnx", Path(folder) / "int8" / target.name
            quantized.parent.mkdir()
            save_model(select(path, model, {name: name for name in outputs}), plain)
            del model  # possibly gigabytes
            result = _quantize(plain, quantized, tokenizer_file, path)
            if not (quantized.parent / weights.name).exists():
                weights.unlink(missing_ok=True)  # of an earlier, larger one
            # The weights, if any, before the graph that names them.
            written = sorted(quantized.parent.iterdir(), key=lambda file: file.name == target.name)
            for file in written:
                file.replace(target.parent / file.name)
        if listed := _listed(target.parent):
            others = {name: value for name, value in listed["files"].items() if name not in (target.name, weights.name)}
            digests = {file.name: sha256(target.parent / file.name) for file in written}
            _write_list(target.parent, listed["source"], others | digests)
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror}. Name another file.") from None
    return target, result


def _check_names(tasks: Mapping[str, Task]) -> None:
    if not tasks:
        raise InputError("No task to export: name at least one.")
    seen: dict[str, str] = {}
    for name in tasks:
        folded = name.casefold()  # some file systems do not distinguish Mood.onnx and mood.onnx
        if folded == SHARED or folded.endswith(("_int8", "_config")):
            raise InputError(
                f"Task {name!r} cannot be exported: the file {name}.onnx would have another meaning. Rename it."
            )
        if folded in seen:
            raise InputError(f"Tasks {seen[folded]!r} and {name!r} differ in case only: their files would be the same.")
        seen[folded] = name


def _write_graphs(source: Path, ending: str, folder: Path, tasks: Mapping[str, Task], external: bool | None) -> None:
    """Write the graph of each task, and that of all of them, from the graph `source`."""
    model = load_model(source)
    missing = {OUTPUT_PREFIX + name for name in tasks} - {output.name for output in model.graph.output}
    if missing:
        raise ExportError(f"{source} has no output {', '.join(sorted(missing))}. Build it again.")
    graphs: dict[str, dict[str, str]] = {name: {"logits": OUTPUT_PREFIX + name} for name in tasks}
    if len(tasks) > 1:
        graphs[SHARED] = {OUTPUT_PREFIX + name: OUTPUT_PREFIX + name for name in tasks}
    for name, outputs in graphs.items():
        target = folder / f"{name}{ending}.onnx"
        save_model(select(source, model, outputs), target, external=external)
        try:
            OnnxBackend(target.name, read_graph(target))
        except BundleError as error:
            raise ExportError(f"Nothing was exported: {error}") from None


def _config(folder: Path, task: Task, max_tokens: int, pairs: bool) -> dict[str, Any]:
    described = task.to_config() | {"threshold": task.threshold, "max_length": max_tokens}
    described |= pairs_entry(folder, described, task, pairs)
    return described if task.out_of_scope is None else {**described, "out_of_scope": task.out_of_scope}


def _quantize(source: Path, target: Path, tokenizer_file: Path, path: Path) -> dict[str, Any]:
    """Quantise `source`, the part of the graph `path` that computes logits."""
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library has no class of its own
        raise InputError(f"{tokenizer_file} cannot be read: {error}. Restore it.") from None
    limit = int(min(MAX_TOKENS, tokenizer_max_length(tokenizer_file.parent) or MAX_TOKENS))
    pad_id = (tokenizer.padding or {}).get("pad_id", 0)
    pairs = _config_beside(path, LOGITS).get("pairs") is True
    threads = cpu.cores()
    try:
        plain = ForeignGraph("onnx", read_graph(source), threads)
        bundle = Bundle(
            path.parent, path.stem, {}, None, limit, None, {}, pad_id=pad_id, pairs=pairs, token_types=pairs
        )
        tokens = Classifier(bundle, plain, tokenizer).tokenize(parity.as_read(bundle, calibration_texts()))
        shapes = {name: values.shape for name, values in plain.logits(**tokens.feed([0], pad_id)).items()}
        tasks = {name: _unnamed(shape[-1], _kind(path, name)) for name, shape in shapes.items()}
        bundle = replace(bundle, tasks=tasks)
        texts = parity.as_read(bundle, showcase_texts())
        expected = parity.score_matrix(Classifier(bundle, plain, tokenizer), texts)

        def judge(candidate: Path) -> dict[str, Any]:
            backend = ForeignGraph("int8", read_graph(candidate), threads)
            return parity.judge(expected, Classifier(bundle, backend, tokenizer), texts)

        feeds = [plain.feed(*tokens.feed([row]).values()) for row in range(len(tokens.ids))]
        return quantize_best(source, target, feeds, judge, reduce_range=cpu.saturates())
    except (InferenceError, OSError):
        raise
    except Exception as error:  # ONNX Runtime's own classes share no public base
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} does not run on the calibration texts, which have up to {limit} tokens ({reason}). "
            f"If it reads fewer, say so in {TOKENIZER_FOLDER}/tokenizer_config.json: model_max_length."
        ) from error


def _unnamed(outputs: int, kind: str) -> Task:
    """Return a task with numbers for labels."""
    labels = tuple(map(str, range(max(2, outputs))))
    return Task(labels, kind if outputs > 1 else SINGLE, 0.0, one_output=outputs == 1)


def _kind(path: Path, output: str) -> str:
    """Return the problem type of an output of a graph from the configuration beside it."""
    kind = _config_beside(path, output).get("problem_type")
    return kind if kind in PROBLEM_TYPES else PROBLEM_TYPES[0]


def _config_beside(path: Path, output: str) -> dict[str, Any]:
    """Return the configuration of an output of a graph; empty if there is none."""
    config = path.with_name(f"{path.stem if output == LOGITS else output.removeprefix(OUTPUT_PREFIX)}_config.json")
    return read_json(config) if config.is_file() else {}


def _publish(staging: Path, out: Path, names: list[str], source: str) -> None:
    """Move the files of `staging` into `out` unless they would overwrite other files."""
    new = {name: sha256(staging / name) for name in names}
    if not os.path.lexists(out):
        _write_list(staging, source, new)
        staging.chmod(0o755)  # mkdtemp makes it private
        staging.replace(out)
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file. Name a folder.")
    listed = _listed(out)
    old: dict[str, str] = listed.get("files", {})
    for name in names:
        _check_free(out / name, old, name)
    others = {name: value for name, value in old.items() if name not in new and (out / name).is_file()}
    if others and listed["source"] != source:
        raise InputError(
            f"{out} holds {min(others)} of another model, and this export would not replace it. Name another folder, "
            "or delete that one."
        )
    for name in list(others):  # weights that are now inside their graph
        if name.endswith("_weights.bin") and name.replace("_weights.bin", ".onnx") in new:
            (out / name).unlink()
            del others[name]
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        (staging / name).replace(out / name)
    _write_list(out, source, others | new)


def _check_free(path: Path, listed: Mapping[str, str], name: str) -> None:
    """Raise InputError if `path` exists and is not, byte for byte, what an export wrote."""
    if not os.path.lexists(path):
        return
    if name not in listed:
        raise InputError(f"{path} exists and is not from an export. Name another place, or delete it.")
    if not path.is_file() or sha256(path) != listed[name]:
        raise InputError(f"{path} was changed since it was exported. Name another place, or delete it.")


def _listed(folder: Path) -> dict[str, Any]:
    """Return the list of the export in `folder`; empty if there is none."""
    path = folder / LIST
    if not path.is_file():
        return {}
    raw = read_json(path)
    files = raw.get("files")
    if not isinstance(files, dict) or not isinstance(raw.get("source"), str):
        raise InputError(f"{path} is not the list of an export. Name another folder, or delete it.")
    return raw


def _write_list(folder: Path, source: str, files: Mapping[str, str]) -> None:
    temporary = folder / f".{LIST}.tmp"
    _write_json(temporary, {"source": source, "files": dict(sorted(files.items()))})
    temporary.replace(folder / LIST)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
