"""The command doctor: find what is wrong or doubtful about a model before it is served."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference.artifacts.build import join_exported
from inference.artifacts.cache import default_cache, find
from inference.artifacts.manifest import REBUILD
from inference.artifacts.parity import as_read
from inference.assets import python_command, showcase_texts
from inference.commands.options import add_model_command, print_json
from inference.errors import BundleError, InferenceError, counted, importing
from inference.formats.architectures import HEAD_WEIGHT, HEADS, TESTED, max_positions
from inference.formats.bundle import MULTI, SINGLE, Bundle, Finding
from inference.formats.describe import describe
from inference.formats.files import inside, read_json, read_json_in, tensors
from inference.formats.hub import without_scheme
from inference.formats.labels import PLACEHOLDER, names_entry
from inference.formats.tokenizer import (
    CONTEXT,
    LONGEST,
    TOKENIZER,
    convert_tokenizer,
    is_final,
    read_tokenizer,
    tokenizer_source,
    write_tokenizer,
)
from inference.formats.weights import ADAPTER, weight_files

SEVERITIES = ("error", "warning", "note")
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # tokenizer classes that name no special tokens themselves
UNBUILT = "ONNX and INT8 are not built yet"
TEXTS = ("It was a quiet evening.", "WHY did the 7.30 bus not come?!", "naïve café, 12,50 €", "a  b\tc", "… ½ ﬁve")
# Figures of a training in trainer_state.json that make sense for independent labels only, or for more than two.
_SEVERAL = re.compile(r"hamming|jaccard|lrap|label_ranking|subset_acc|exact_match|coverage_error")
_AMONG_MANY = re.compile(r"roc_?auc|micro|(f1|precision|recall)_samples")


_error, _warning, _note = (partial(Finding, severity) for severity in SEVERITIES)


def examine(
    model: str | Path, base: str | Path | None = None, cache: Path | None = None, pairs: bool | None = None
) -> list[Finding]:
    """Return findings about a model, errors first. A model that does not load is a finding, not an exception."""
    # A setting that stops both the network and the tokenizer is one finding.
    findings = list(dict.fromkeys(_findings(model, Path(base) if base is not None else None, cache, pairs)))
    if any(finding.severity == "error" for finding in findings):
        findings = [finding for finding in findings if finding.what != UNBUILT]  # a build would fail
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _findings(model: str | Path, base: Path | None, cache: Path | None, pairs: bool | None) -> Iterator[Finding]:
    try:
        bundle = describe(model, base, pairs=pairs)
    except InferenceError as error:
        yield _error(str(error))
        yield from _check_folder(Path(model))
        return
    if bundle.pairs:
        yield _note(
            "it reads pairs of texts",
            "its config.json or bundle.json says so, or it is a cross-encoder, or its labels are those of NLI",
            'if it was trained on single texts, write "pairs": false into that file',
        )
    yield from bundle.findings
    yield from _check_labels(bundle)
    yield from _check_base(bundle)
    try:
        home = bundle.base_folder(base)
        bundle.verify()
    except InferenceError as error:
        yield _error(str(error))
        return
    config = {} if bundle.format == "onnx" else read_json(inside(home, "config.json"))
    if not bundle.graphs:
        yield from _check_weights(bundle, home, base)
        if config.get("model_type") not in TESTED:
            yield _note(
                f"no test covers the architecture {config.get('model_type')}",
                "its answers are proved on this model only: when it is loaded, and when ONNX and INT8 are built",
                "compare a few answers with those from training",
            )
    if bundle.format in ("transformers", "peft", "optimum"):
        yield from _check_activation(config, home)
        yield from _check_config(config, home)
    yield from _check_tokenizer(bundle, config, base)
    if bundle.graphs:
        yield from _check_graphs(bundle)
    if "pytorch" in bundle.backends:
        try:
            what = "" if find(bundle, cache or default_cache()) else UNBUILT
        except BundleError as error:
            what = str(error).partition(REBUILD)[0].strip(" .")
        if what:
            yield _note(what, do=python_command("inference", "build", "--model", bundle.folder))


def _check_folder(folder: Path) -> Iterator[Finding]:
    """Check what can be checked of a folder that does not load."""
    try:
        if folder.is_dir() and (folder / "config.json").exists():
            yield from _check_config(read_json(inside(folder, "config.json")), folder)
    except (InferenceError, OSError):
        return  # already reported


def _check_labels(bundle: Bundle) -> Iterator[Finding]:
    """Check the names and the problem type of labels; those of adapters are among the findings of the bundle."""
    for task, spec in bundle.tasks.items():
        if task in bundle.adapters:
            continue
        if all(PLACEHOLDER.fullmatch(label) for label in spec.outputs):
            yield _warning(
                f"the labels of {task} have no names: {', '.join(spec.outputs[:3])}",
                "people cannot read the answers",
                f"write the names into {bundle.folder / 'config.json'}: {names_entry(len(spec.outputs))}; then repeat "
                "what was exported before, which keeps the old names",
            )
        config = read_json_in(bundle.folder, "config.json")
        if bundle.format == "transformers" and not (spec.one_output or config.get("problem_type")):
            yield from _check_recorded_figures(bundle.folder, len(spec.labels))


def _check_recorded_figures(folder: Path, labels: int) -> Iterator[Finding]:
    """Check that a model without a problem type was not trained on independent labels, as its figures can show."""
    try:
        history = read_json_in(folder, "trainer_state.json").get("log_history")
    except BundleError:  # it is not part of the model
        return
    steps = history if isinstance(history, list) else []
    names = sorted({name for step in steps if isinstance(step, dict) for name in step})
    if several := [name for name in names if _SEVERAL.search(name) or (labels > 2 and _AMONG_MANY.search(name))]:
        yield _warning(
            f"{folder / 'config.json'} has no problem_type, so that each text has one label, but the training recorded "
            f"{', '.join(several[:3])}",
            "such figures are usual for labels that were trained independently; then every probability is wrong",
            f'add "problem_type": "{MULTI}", or "{SINGLE}" if a text has one label',
        )


def _check_base(bundle: Bundle) -> Iterator[Finding]:
    if bundle.format == "peft" and bundle.base is not None and bundle.base.revision is None and bundle.base.hub_id:
        yield _warning(
            f"the adapter names its base {bundle.base.hub_id} without a revision",
            "if the base changes on the Hub, so do the answers",
            'add "revision": "COMMIT" to adapter_config.json',
        )
    if bundle.four_bit:
        yield _note(
            "the base is stored in 4 bits",
            "PyTorch needs bitsandbytes for this; ONNX and INT8 are built from the dequantised weights",
            "pip install -r requirements-qlora.txt",
        )


def _check_activation(config: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    """Say so if sentence-transformers gives the logit of this cross-encoder, which has one output, as its score."""
    settings = config.get("sentence_transformers")
    name = settings.get("activation_fn") if isinstance(settings, dict) else None
    name = name or read_json_in(folder, "config_sentence_transformers.json").get("activation_fn")
    if str(name or config.get("sbert_ce_default_activation_function")).endswith("Identity"):
        yield _note(
            "sentence-transformers gives the logits of this cross-encoder as its scores",
            "scores here are always probabilities: the sigmoid of one logit, the softmax of several",
        )


def _check_config(config: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    path = folder / "config.json"
    names, numbers = config.get("id2label"), config.get("label2id")
    if isinstance(names, dict) and isinstance(numbers, dict):
        given = {i: numbers.get(label, i) for i, label in names.items() if isinstance(label, str)}
        wrong = [f"{names[i]!r} is {number}" for i, number in given.items() if str(number) != str(i)]
        if wrong:
            yield _error(
                f"{path}: label2id contradicts id2label: {', '.join(wrong[:4])}",
                "only one of them is the order used in training; with the other, every answer has the wrong name",
                "look up the order used in training and write it into both",
            )
    if config.get("is_decoder"):
        yield _warning(
            f"{path} has is_decoder: true, so that BERT and its kin let a token see only those before it",
            "the first token, from which they answer, then sees nothing of the text",
            "set it to false unless the model was trained so",
        )
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return
    limit = read_json(inside(folder, settings.name), 20_000_000).get("model_max_length")
    positions = max_positions(config)
    if not isinstance(limit, int | float) or limit > 1_000_000:
        problem = "does not record the maximum length used in training"
    elif limit > positions:
        problem = f"has a maximum length of {limit:,.0f} tokens, but the model has only {positions:,} positions"
    elif limit > CONTEXT:
        problem = f"has a maximum length of {limit:,.0f} tokens, the window of a generative base; {LONGEST:,} are read"
    else:
        return
    yield _warning(
        f"{settings} {problem}",
        "texts may be truncated elsewhere than in training; `python -m inference info` shows the limit",
        "set model_max_length to the length used in training",
    )


def _check_tokenizer(bundle: Bundle, config: Mapping[str, Any], base: Path | None) -> Iterator[Finding]:
    source = tokenizer_source(bundle, base)
    path, final, other = source / TOKENIZER, is_final(bundle), None
    try:
        with importing("Examining a model", "-r requirements.txt"), tempfile.TemporaryDirectory() as folder:
            write_tokenizer(bundle, Path(folder) / TOKENIZER, base)
            served = read_tokenizer(bundle, Path(folder) / TOKENIZER)
            if final:
                with contextlib.suppress(BundleError):
                    other = Tokenizer.from_str(convert_tokenizer(source))
            elif path.is_file():
                other = Tokenizer.from_file(str(path))
    except InferenceError as error:
        yield _error(str(error))
        return
    text = None if other is None else _first_difference(served, other)
    if text is not None:
        own, automatic = f"{path}{' (served)' if final else ''}", f"AutoTokenizer{'' if final else ' (served)'}"
        yield Finding(
            "note" if bundle.format == "bundle" else "warning",
            f"{own} and transformers' {automatic} read {text!r} differently",
            "the model was trained with one of them",
            "save the tokenizer used in training again: tokenizer.save_pretrained"
            if final
            else 'if it was tokenizer.json, set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json',
        )
    size, rows = served.get_vocab_size(), bundle.vocab_size
    if rows is not None and size < 0.7 * rows:
        yield _warning(
            f"the tokenizer has {size:,} tokens, but the model has {rows:,} embeddings",
            "it may belong to another model, in which the token ids mean other words",
            "use the tokenizer from training",
        )
    padded = not _is_decoder(bundle)
    if padded and bundle.format in ("transformers", "peft") and not isinstance(config.get("pad_token_id"), int):
        yield _warning(
            f"{bundle.base_folder(base) / 'config.json'} has no pad_token_id",
            "0 is used; if that is another token, an answer may depend on the other texts in the batch",
            "add the id of the padding token",
        )
    last = served.encode("a").ids[-1:]
    if not padded and last == [config.get("pad_token_id")]:
        yield _warning(
            f"the tokenizer ends every text with {served.id_to_token(last[0])!r}, which is pad_token_id too",
            "that token is read here, as the last of the text; transformers takes it for padding, in training too",
            "train with a padding token of its own, or with a tokenizer that does not add this one",
        )
    yield from _check_special_tokens(served, source, bundle.pad_id if padded else None)


def _is_decoder(bundle: Bundle) -> bool:
    """Return whether the model answers with the state of the last token, so that padding plays no part."""
    folders = [bundle.folder / at for at in bundle.adapters.values()] or [bundle.folder]
    files = (path for folder in folders for path in weight_files(folder))
    return any(re.search(r"(^|\.)score\.weight$", name) for path in files for name in tensors(path))


def _check_graphs(bundle: Bundle) -> Iterator[Finding]:
    try:
        with importing("Examining a model", "-r requirements.txt"), tempfile.TemporaryDirectory() as folder:
            write_tokenizer(bundle, Path(folder) / TOKENIZER)
            exported = join_exported(bundle, Path(folder), lambda *_: None).reference
            exported.classify(list(as_read(bundle, TEXTS)))
    except InferenceError as error:
        yield _error(str(error))


def _first_difference(served: Tokenizer, other: Tokenizer) -> str | None:
    for tokenizer in (served, other):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    texts = (*TEXTS, *showcase_texts())
    return next((text for text in texts if served.encode(text).ids != other.encode(text).ids), None)


def _check_special_tokens(tokenizer: Tokenizer, folder: Path, pad_id: int | None) -> Iterator[Finding]:
    """Check the tokens that tokenizer_config.json names; pad_id is None if the model does not depend on padding."""
    settings = folder / "tokenizer_config.json"
    tokens = read_json(inside(folder, settings.name), 20_000_000) if settings.is_file() else {}
    for role in ("unk_token", "cls_token", "sep_token", "pad_token"):
        token = tokens.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        token_id = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if isinstance(token, str) and token_id is None:
            yield _error(
                f"{settings} has {role} {token!r}, but the tokenizer has no such token",
                "texts are encoded without it, unlike in training",
                "save the tokenizer used in training again",
            )
        elif role == "pad_token" and token_id is not None and pad_id not in (None, token_id):
            yield _warning(
                f"the tokenizer pads with {token!r} (id {token_id}), but the model's config says {pad_id}",
                "the id in the config is used, and some models derive positions from it",
                f"set pad_token_id to {token_id} in config.json",
            )
        elif role == "pad_token" and pad_id is not None and token is None and tokens.get("tokenizer_class") in GENERIC:
            yield _warning(
                f"{settings} has no pad_token",
                "the id in config.json is used, and there is nothing to check it against",
                "set tokenizer.pad_token and save the tokenizer again",
            )


def _check_weights(bundle: Bundle, home: Path, base: Path | None) -> Iterator[Finding]:
    with importing("Examining a model", "-r requirements.txt"):
        from inference.pytorch.huggingface import UNUSED, load_classifier, load_served

    try:
        load_served(bundle, base)
    except InferenceError as error:
        yield _error(str(error))
    types = {kind for path in weight_files(home) for kind, _, _ in tensors(path).values()}
    if narrow := sorted(types & {"F16", "BF16"}):
        yield _note(
            f"the weights are stored as {' and '.join(narrow)}",
            "they are served in float32, with twice the memory and no loss of accuracy",
        )
    for at in bundle.adapters.values():
        yield from _check_merged(bundle.folder / at, home)
    if bundle.format != "transformers":
        return
    try:
        model, missing, unused = load_classifier(home)
    except Exception:  # load_served has reported it
        return
    weights = model.state_dict()
    named = [name.removesuffix("weight") + "bias" for name in weights if HEAD_WEIGHT.search(name)]
    biases = [name for name in named if name in weights]
    if lacking := [name for name in missing if name.startswith(HEADS)]:
        yield _error(
            f"the head is not in the files: {', '.join(lacking)}",
            "transformers would initialize it at random, and the answers would be random too",
            "save the whole model after training: model.save_pretrained",
        )
    elif biases and not any(weights[name].any() for name in biases):
        yield _warning(
            f"{biases[0]} is 0 everywhere",
            "that is the initial value: the head may not have been trained",
            "compare a few answers with those from training",
        )
    if ignored := [name for name in unused if not UNUSED.search(name)]:
        more = ", …" if len(ignored) > 4 else ""
        yield _warning(
            f"{len(ignored)} tensors in the files are not used: {', '.join(ignored[:4])}{more}",
            "config.json may not describe the network that was trained",
            "restore the config.json from training",
        )


def _check_merged(adapter: Path, home: Path) -> Iterator[Finding]:
    """Compare the heads of an adapter and its base, which only merging makes the same."""
    from safetensors import safe_open

    def heads(path: Path) -> dict[str, Any]:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if HEAD_WEIGHT.search(name)]  # noqa: SIM118  (it is no mapping)
            return {name.removeprefix("base_model.model."): file.get_tensor(name) for name in names}

    bases = {name: value for path in weight_files(home) for name, value in heads(path).items()}
    for name, value in heads(adapter / ADAPTER[1]).items():
        other = bases.get(name)
        if other is not None and other.shape == value.shape and (other.to(value.dtype) == value.to(other.dtype)).all():
            yield _warning(
                f"the head of the base in {home} is that of the adapter in {adapter} ({name})",
                "the adapter may have been merged into this base already, and would be applied twice",
                "name the base that the adapter was trained on (--base), or serve the merged model without the adapter",
            )


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    help = "Check a model for problems before it is served; exit code 1 if there are errors."
    add_model_command(commands, "doctor", doctor_command, help, positional=True)


def doctor_command(args: argparse.Namespace) -> int:
    """Print the findings and return the exit code: 1 if there are errors, else 0."""
    findings = examine(args.model, args.base, args.cache, args.pairs)
    counts, name = Counter(finding.severity for finding in findings), without_scheme(str(args.model))
    if args.json:
        print_json({"model": name, "findings": [dataclasses.asdict(finding) for finding in findings]})
        return min(counts["error"], 1)
    for finding in findings:
        print(f"{finding.severity:<8} {finding.what}")
        for title, text in (("Why", finding.why), ("Do", finding.do)):
            if text:
                print(f"         {title}: {text}")
    print(f"{name}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}.")
    return min(counts["error"], 1)


def _count(number: int, noun: str) -> str:
    return counted(number, noun) if number else f"no {noun}s"
