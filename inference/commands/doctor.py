"""What is wrong, doubtful or worth knowing about a model, found before anybody is answered by it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from inference.artifacts.cache import default_cache, find
from inference.artifacts.manifest import REBUILD
from inference.commands.options import add_model_command
from inference.errors import BundleError, InferenceError, importing
from inference.formats.architectures import ARCHITECTURES, max_positions
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from inference.formats.files import inside, read_json, tensors
from inference.formats.hub import without_scheme
from inference.formats.tokenizer import TOKENIZER, read_tokenizer, tokenizer_source

SEVERITIES = ("error", "warning", "note")
TEXTS = ("It was a quiet evening.", "WHY did the 7.30 bus not come?!", "naïve café, 12,50 €", "a  b\tc")
_PLACEHOLDER = re.compile(r"LABEL_\d+")
# Weights that many files carry and no classifier uses: the head of the first training, and counters of positions.
_IDLE = re.compile(r"position_ids$|^(cls|lm_head|vocab_\w+|mlm|qa_outputs)\.|(^|\.)pooler\.")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to know about a model."""

    severity: str
    """error: it is not served, or its answers are wrong. warning: they may be. note: good to know."""
    what: str
    why: str
    """"" where `what` says it."""
    do: str
    """"" where there is nothing to do, or `what` says it."""


def examine(model: str | Path, base: str | Path | None = None, cache: Path | None = None) -> list[Finding]:
    """Findings about a model, the gravest first. What refuses the model is one of them, and no exception."""
    found = list(_findings(model, Path(base) if base is not None else None, cache))
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _findings(model: str | Path, base: Path | None, cache: Path | None) -> Iterator[Finding]:
    try:
        bundle = describe(model, base)
    except InferenceError as error:
        yield _refusal(error)
        yield from _of_folder(Path(model))
        return
    yield from _of_labels(bundle)
    yield from _of_base(bundle)
    try:
        home = bundle.base_folder(base)
        bundle.verify()
    except InferenceError as error:
        yield _refusal(error)
        return
    config = {} if bundle.format == "onnx" else read_json(inside(home, "config.json"))
    if bundle.format in ("transformers", "peft"):
        yield from _of_config(config, bundle.folder if bundle.format == "transformers" else home)
    yield from _of_tokenizer(bundle, config, base)
    if bundle.format != "onnx":
        yield from _of_weights(bundle, home, base)
    if "pytorch" in bundle.backends:
        try:
            what = "" if find(bundle, cache or default_cache()) else "ONNX and INT8 are not built yet"
        except BundleError as error:
            what = str(error).partition(REBUILD)[0].strip(" .")
        if what:
            yield Finding("note", what, "", f"python -m inference build --model {bundle.folder}")


def _refusal(error: InferenceError) -> Finding:
    return Finding("error", str(error), "", "")


def _of_folder(folder: Path) -> Iterator[Finding]:
    """What can still be said of a folder that is refused."""
    try:
        if folder.is_dir() and (folder / "config.json").exists():
            yield from _of_config(read_json(inside(folder, "config.json")), folder)
    except (InferenceError, OSError):
        return  # what was wrong with it has been said


def _of_labels(bundle: Bundle) -> Iterator[Finding]:
    for task, spec in bundle.tasks.items():
        if all(_PLACEHOLDER.fullmatch(label) for label in spec.labels):
            where = bundle.folder / bundle.adapters.get(task, ".") / "config.json"
            names = ", ".join(f'"{i}": "…"' for i in range(min(3, len(spec.labels))))
            yield Finding(
                "warning",
                f"the labels of {task} have no names: {', '.join(spec.labels[:3])}",
                "nobody can read the answers; an adapter's own file keeps no names",
                f"{f'set this in {where}, beside what is there' if where.is_file() else f'write {where}'}: "
                f'{{"id2label": {{{names}}}}}, in the order of the training',
            )


def _of_base(bundle: Bundle) -> Iterator[Finding]:
    if bundle.format == "peft" and bundle.base is not None and bundle.base.revision is None and bundle.base.hub_id:
        yield Finding(
            "warning",
            f"the adapter names its base {bundle.base.hub_id} without a revision",
            "the base may change on the Hub, and the answers with it",
            'write "revision": "(commit)" into adapter_config.json',
        )
    if bundle.four_bit:
        yield Finding(
            "note",
            "the base is stored in 4 bits",
            "PyTorch needs bitsandbytes for it; ONNX and INT8 are made from the dequantised weights",
            "pip install -r requirements-qlora.txt",
        )


def _of_config(config: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    path = folder / "config.json"
    names, numbers = config.get("id2label"), config.get("label2id")
    if isinstance(names, dict) and isinstance(numbers, dict):
        wrong = [f"{label!r} is {numbers[label]}" for i, label in names.items() if str(numbers.get(label, i)) != str(i)]
        if wrong:
            yield Finding(
                "error",
                f"{path}: label2id contradicts id2label: {', '.join(wrong[:4])}",
                "one of the two is the order of the training; with the other one every answer has the wrong name",
                "look up the order of the training, and write it into both",
            )
    if not isinstance(config.get("pad_token_id"), int):
        yield Finding(
            "warning",
            f"{path} names no pad_token_id",
            "0 is taken; where that is another token, a text's answer may depend on the texts beside it",
            "write the id of the padding token there",
        )
    settings = folder / "tokenizer_config.json"
    if config.get("model_type") not in ARCHITECTURES or not settings.is_file():
        return
    said, most = read_json(inside(folder, settings.name), 20_000_000).get("model_max_length"), max_positions(config)
    if not isinstance(said, int | float) or said > 1_000_000:
        lost = "does not say how many tokens the model was trained with"
    elif said > most:
        lost = f"says {said:,.0f} tokens, and the model has positions for {most:,}"
    else:
        return
    yield Finding(
        "warning",
        f"{settings} {lost}",
        "a text is cut where the training did not cut it; `python -m inference info` says where",
        "write the length of the training there: model_max_length",
    )


def _of_tokenizer(bundle: Bundle, config: Mapping[str, Any], base: Path | None) -> Iterator[Finding]:
    source = tokenizer_source(bundle, base)
    path = source / TOKENIZER
    try:
        with importing("Examining a model", "-r requirements.txt"):
            from inference.formats.tokenizer import convert_tokenizer
        converted = Tokenizer.from_str(convert_tokenizer(source))
        own = read_tokenizer(bundle, path) if path.is_file() else converted
    except InferenceError as error:
        yield _refusal(error)
        return
    differ = next((text for text in TEXTS if own.encode(text).ids != converted.encode(text).ids), None)
    if differ is not None:
        yield Finding(
            "error" if bundle.format != "bundle" else "note",
            f"{path} and transformers' AutoTokenizer read {differ!r} differently",
            "the model was trained on one of the two; served is tokenizer.json",
            "save it again with the tokenizer of the training: tokenizer.save_pretrained",
        )
    size, rows = own.get_vocab_size(), config.get("vocab_size")
    if isinstance(rows, int) and size < 0.7 * rows:
        yield Finding(
            "warning",
            f"the tokenizer knows {size:,} tokens, and the model has embeddings for {rows:,}",
            "it may belong to another model, whose numbers mean other words",
            "put the tokenizer of the training there",
        )
    settings = source / "tokenizer_config.json"
    named = read_json(inside(source, settings.name), 20_000_000) if settings.is_file() else {}
    for role in ("unk_token", "cls_token", "sep_token", "pad_token"):
        token = named.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        number = own.token_to_id(token) if isinstance(token, str) else None
        if isinstance(token, str) and number is None:
            yield Finding(
                "error",
                f"{settings} names {role} {token!r}, and the tokenizer has no such token",
                "texts are read without it, unlike in the training",
                "save the tokenizer of the training again",
            )
        elif role == "pad_token" and number is not None and number != bundle.pad_id:
            yield Finding(
                "warning",
                f"the tokenizer pads with {token!r}, which is {number}, and the model's config says {bundle.pad_id}",
                "rows are padded with what the config says; some models count their positions from it",
                "make pad_token_id in config.json the tokenizer's",
            )
        elif role == "pad_token" and named and token is None:
            yield Finding(
                "warning",
                f"{settings} names no pad_token",
                "texts are padded with what config.json says, and nothing tells that it is the right one",
                "set tokenizer.pad_token, and save the tokenizer again",
            )


def _of_weights(bundle: Bundle, home: Path, base: Path | None) -> Iterator[Finding]:
    from inference.pytorch.huggingface import load_classifier, load_served

    try:
        load_served(bundle, base)
    except InferenceError as error:
        yield _refusal(error)
    types = {kind for path in sorted(home.glob("*.safetensors")) for kind, _, _ in tensors(path).values()}
    if narrow := sorted(types & {"F16", "BF16"}):
        yield Finding(
            "note",
            f"the weights are stored as {' and '.join(narrow)}",
            "they are served in float32, twice as large in memory, and no less exact",
            "",
        )
    if bundle.format != "transformers":
        return
    try:
        model, missing, unused = load_classifier(home)
    except Exception:  # whatever it was, load_served has said it
        return
    head = ARCHITECTURES[model.config.model_type].head
    if lacking := [name for name in missing if name.startswith(head.partition(".")[0])]:
        yield Finding(
            "error",
            f"the head is not in the files: {', '.join(lacking)}",
            "transformers makes up random numbers for it: every answer would be chance",
            "save the whole model after the training: model.save_pretrained",
        )
    elif not model.state_dict()[head.removesuffix("weight") + "bias"].any():
        yield Finding(
            "warning",
            f"every number of {head.removesuffix('weight')}bias is 0",
            "so it is before a training and hardly ever after one: the head may never have been trained",
            "compare a few answers with those of the training",
        )
    if idle := [name for name in unused if not _IDLE.search(name)]:
        yield Finding(
            "warning",
            f"{len(idle)} tensors of the files are not used: {', '.join(idle[:4])}{', …' if len(idle) > 4 else ''}",
            "the network that config.json describes is not the one that was trained",
            "restore the config.json of the training",
        )


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    help = "What is wrong or doubtful about a model, before it is served. Exit code 1 where something is wrong."
    add_model_command(commands, "doctor", doctor_command, help, positional=True)


def doctor_command(args: argparse.Namespace) -> int:
    """Print what is found; returns the exit code: 1 where there is an error, else 0."""
    found = examine(args.model, args.base, args.cache)
    errors, name = sum(one.severity == "error" for one in found), without_scheme(str(args.model))
    if args.json:
        print(json.dumps({"model": name, "findings": [dataclasses.asdict(one) for one in found]}, indent=1))
        return min(errors, 1)
    for one in found:
        more = [f"\n         {title}: {said}" for title, said in (("Why", one.why), ("Do", one.do)) if said]
        print(f"{one.severity:<8} {one.what}{''.join(more)}")
    warnings = sum(one.severity == "warning" for one in found)
    print(f"{name}: {_count(errors, 'error')}, {_count(warnings, 'warning')}.")
    return min(errors, 1)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
