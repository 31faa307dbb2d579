"""Run where optimum-onnx is installed: export small classifiers with it, and write what they answer.

Usage: original_optimum.py FOLDER [KIND …]
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import common
import transformers
from common import FAMILIES, LABELS, answer, make_classifier, make_tokenizer, pairs, write_answers
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def source(
    folder: Path, family: str = "bert", labels: Any = LABELS, inputs: Any = None, **config: Any
) -> tuple[Path, Any]:
    tokenizer = make_tokenizer(FAMILIES[family][0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = make_classifier(family, labels, tokenizer, **config)
    common.spread(model, tokenizer, inputs)
    made = folder.with_name(f"{folder.name}-source")
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made, tokenizer


def export(folder: Path, *arguments: Any, inputs: Any = None, batch: int = 20, **options: Any) -> None:
    """`ORTModel.from_pretrained(export=True)` and both saved, as the documentation of Optimum has it."""
    made, tokenizer = source(folder, *arguments, inputs=inputs, **options)
    model = ORTModelForSequenceClassification.from_pretrained(made, export=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(made)
    model.eval = lambda: model
    write_answers(folder, {"label": answer(model, tokenizer, inputs, batch=batch)}, pairs=inputs is not None)


def command(folder: Path) -> None:
    """`optimum-cli export onnx`."""
    made, tokenizer = source(folder)
    main_export(str(made), folder, task="text-classification", do_validation=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    write_answers(folder, {"label": answer(model, tokenizer)})
    shutil.rmtree(made)


def quantized(folder: Path, beside: bool) -> None:
    """INT8 of Optimum: alone in its folder, or beside the graph that it was made from."""
    made, tokenizer = source(folder)
    model = ORTModelForSequenceClassification.from_pretrained(made, export=True)
    whole = folder if beside else folder.with_name(f"{folder.name}-fp32")
    model.save_pretrained(whole)
    tokenizer.save_pretrained(folder)
    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(whole).quantize(save_dir=folder, quantization_config=settings)
    file = "model.onnx" if beside else "model_quantized.onnx"
    answering = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file)
    answering.eval = lambda: answering
    write_answers(folder, {"label": answer(answering, tokenizer)})
    shutil.rmtree(made)


def transformers_js(folder: Path) -> None:
    """Weights of PyTorch at the root, and the graph in onnx/, as many folders of the Hub have it."""
    made, tokenizer = source(folder)
    model = ORTModelForSequenceClassification.from_pretrained(made, export=True)
    model.save_pretrained(folder / "onnx")
    (folder / "onnx" / "config.json").unlink()
    shutil.copytree(made, folder, dirs_exist_ok=True)
    model.eval = lambda: model
    write_answers(folder, {"label": answer(model, tokenizer)})
    shutil.rmtree(made)


def kind(maker: Any, *arguments: Any, **options: Any) -> Any:
    return lambda folder: maker(folder, *arguments, **options)


MAKERS = {
    "optimum": export,
    "optimum-roberta": kind(export, "roberta"),
    "optimum-xlm-roberta": kind(export, "xlm-roberta"),
    "optimum-multi-label": kind(export, labels=("a", "b", "c"), problem_type="multi_label_classification"),
    "optimum-one-output": kind(export, labels=("toxic",)),
    "optimum-nli": kind(export, labels=("contradiction", "entailment", "neutral"), inputs=pairs()),
    "optimum-gpt2": kind(export, "gpt2", batch=1),
    "optimum-command": command,
    "optimum-quantized": kind(quantized, False),
    "optimum-both": kind(quantized, True),
    "transformers-js": transformers_js,
}

if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    common.main(MAKERS)
