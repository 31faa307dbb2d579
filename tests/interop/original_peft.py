"""Run where PEFT and transformers are installed: make small adapters, save them, and write what they answer.

The answers come from the code of the PEFT inference guide: `AutoPeftModelForSequenceClassification`, its tokenizer
call, its softmax. Of several adapters in one folder each answers alone. Usage: original_peft.py FOLDER [KIND …]
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import common
import peft
import torch
import transformers
from common import FAMILIES, LABELS, make_classifier, make_tokenizer, rows, spread, texts, write_answers, write_encoder
from peft import (
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

NAMES = dict(enumerate(LABELS))
QUERY = {"target_modules": ["query", "value"]}


def predict_sentiment(texts: list[str], model: Any, tokenizer: Any) -> list[list[float]]:
    """Probabilities of each text, as the guide works them out."""
    inputs = tokenizer(texts, return_tensors="pt", truncation=True, padding=True, max_length=128)
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    model.eval()
    with torch.no_grad():
        outputs = model(**inputs)
    return torch.softmax(outputs.logits, dim=-1).tolist()


def ask(folder: Path, labels: Any = LABELS, problem: str | None = None, batch: int | None = None) -> dict[str, Any]:
    """What the adapter in `folder` answers."""
    config = PeftConfig.from_pretrained(folder)
    own = any(folder.glob("tokenizer*"))
    tokenizer = AutoTokenizer.from_pretrained(folder if own else config.base_model_name_or_path)
    options = {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, **options)
    if problem or batch:
        scores = common.scores_of(common.logits_of(model, tokenizer, texts(), batch or 20), problem)
    else:
        scores = predict_sentiment(texts(), model, tokenizer)
    return {"labels": list(labels), "scores": scores}


def write_base(folder: Path, family: str = "bert", labels: Any = LABELS) -> Path:
    """A random classifier with named labels, and its tokenizer."""
    if not folder.exists():
        numbers = {name: i for i, name in enumerate(labels)}
        write_encoder(folder, family, id2label=dict(enumerate(labels)), label2id=numbers)
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        common.widen(model.classifier)
        model.save_pretrained(folder)
    return folder


def stir(model: Any) -> None:
    """Move every trained weight, as a training would."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * (0.5 if "classifier" in name or "score" in name else 0.1))


def make(
    at: Path,
    base: Path,
    config: Any,
    labels: Any = LABELS,
    seed: int = 5,
    converted: bool = False,
    with_head: bool = True,
) -> None:
    """Save an adapter whose weights have moved, and whose answers differ from text to text."""
    torch.manual_seed(seed)
    options = {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base, **options), config)
    if converted:  # PEFT needs the adapter as it was before training to convert it
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(at / "initial")
        model.peft_config["default"].init_lora_weights = config.init_lora_weights
    stir(model)
    spread(model, AutoTokenizer.from_pretrained(base))
    if converted:
        model.save_pretrained(at, path_initial_model_for_weight_conversion=str(at / "initial"))
        shutil.rmtree(at / "initial")
        if with_head:  # the conversion leaves it out
            weights = load_file(at / "adapter_model.safetensors")
            head = {name: value for name, value in get_peft_model_state_dict(model).items() if "classifier" in name}
            save_file(weights | head, at / "adapter_model.safetensors", {"format": "pt"})
    else:
        model.save_pretrained(at)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(task_type="SEQ_CLS", **{"r": 4, "lora_alpha": 16, **QUERY, **options})


def other(kind: str, **options: Any) -> Any:
    return getattr(peft, f"{kind}Config")(task_type="SEQ_CLS", **{**QUERY, **options})


# --- The kinds


def guide(folder: Path, family: str) -> None:
    """A trained adapter, as the guide has it; beside it its merged model, and both with pickled weights."""
    base = write_base(folder.with_name(f"base-{family}"), family)
    tokenizer = AutoTokenizer.from_pretrained(base)
    modules = ["q_lin", "v_lin"] if family == "distilbert" else ["query", "value"]
    torch.manual_seed(4)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base), lora(lora_dropout=0.1, target_modules=modules)
    )
    fit(model, tokenizer)
    model.save_pretrained(folder)
    expected = ask(folder)
    write_answers(folder, {"label": expected})

    merged = folder.with_name(f"merged-{family}")
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder).merge_and_unload()
    model.save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    write_answers(merged, {"label": {"labels": LABELS, "scores": predict_sentiment(texts(), model, tokenizer)}})
    if family == "bert":  # the same weights as pickles, which save_pretrained wrote before safetensors
        for source, stem in ((folder, "adapter_model"), (merged, "model")):
            pickled = folder.with_name(f"pickled-{source.name}")
            shutil.copytree(source, pickled)
            weights = load_file(pickled / f"{stem}.safetensors")
            torch.save(weights, pickled / f"{'pytorch_' * (stem == 'model')}{stem}.bin")
            (pickled / f"{stem}.safetensors").unlink()
            write_answers(pickled, {"label": expected})


def fit(model: Any, tokenizer: Any, steps: int = 50, after: Any = None) -> None:
    data = rows("mood", 20 * steps)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    model.train()
    for step in range(steps):
        batch = data[20 * step : 20 * step + 20]
        inputs = tokenizer([row["text"] for row in batch], return_tensors="pt", padding=True)
        labels = torch.tensor([int(row["label"] == "up") for row in batch])
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        if after is not None:
            after(step)
        optimizer.zero_grad()


def several(folder: Path, *configs: Any, labels: Any = (), converted: Any = ()) -> None:
    """Adapters of one base, each in a folder of its own."""
    base = write_base(folder.with_name("base-bert"))
    answers = {}
    for number, config in enumerate(configs):
        names = labels[number] if labels else LABELS
        at = folder / f"task{number}"
        make(at, base, config, names, seed=10 + number, converted=number in converted)
        answers[at.name] = ask(at, names)
        if labels:
            write_labels(at, names)
    write_answers(folder, answers)


def write_labels(folder: Path, labels: Any, **more: Any) -> None:
    content = {"id2label": dict(enumerate(labels)), **more}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def one(folder: Path, config: Any, labels: Any = LABELS, base_labels: Any = LABELS, converted: bool = False) -> None:
    base = write_base(folder.with_name(f"base-{len(base_labels)}"), labels=base_labels)
    make(folder, base, config, labels, converted=converted)
    names = labels if labels == base_labels else [f"LABEL_{i}" for i in range(len(labels))]
    write_answers(folder, {"label": ask(folder, names)})


def headless(folder: Path) -> None:
    """PEFT's conversion leaves out the head, so that it would be random."""
    make(folder, write_base(folder.with_name("base-bert")), lora(**PISSA), converted=True, with_head=False)
    write_answers(folder)


def multi_label(folder: Path) -> None:
    """PEFT stores no problem_type: the config.json beside the adapter does."""
    labels, problem = ("a", "b", "c"), "multi_label_classification"
    base = write_base(folder.with_name("base-bert"))
    make(folder, base, lora(), labels)
    expected = ask(folder, labels, problem)
    write_labels(folder, labels, problem_type=problem)
    write_answers(folder, {"label": expected})


def adalora(folder: Path, several_too: bool = False) -> None:
    """Trained until ranks are taken away, which leaves their pattern in the configuration."""
    base = write_base(folder.with_name("base-bert"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS", init_r=6, target_r=3, tinit=5, tfinal=10, deltaT=2, total_step=40, lora_alpha=16, **QUERY
    )
    at = folder / "task0" if several_too else folder
    torch.manual_seed(6)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    fit(model, tokenizer, 40, after=lambda step: model.base_model.update_and_allocate(step))
    spread(model, tokenizer)
    model.save_pretrained(at)
    assert json.loads((at / "adapter_config.json").read_text(encoding="utf-8"))["rank_pattern"]
    answers = {"label": ask(at)}
    if several_too:
        make(folder / "task1", base, lora())
        answers = {"task0": ask(at), "task1": ask(folder / "task1")}
    write_answers(folder, answers)


def own_tokens(folder: Path, **options: Any) -> None:
    """Tokens that the base does not have: PEFT saves the resized embeddings, and people the tokenizer."""
    base = write_base(folder.with_name("base-bert"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<user>", "xyzzy", "🙂"])
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(model, lora(**options))
    stir(model)
    spread(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_answers(folder, {"label": ask(folder)})


def without_task(folder: Path, task: str | None = None) -> None:
    base = write_base(folder.with_name("base-bert"))
    torch.manual_seed(8)
    config = LoraConfig(task_type=task, r=4, lora_alpha=16, modules_to_save=["classifier"], **QUERY)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    stir(model)
    spread(model, AutoTokenizer.from_pretrained(base))
    model.save_pretrained(folder)
    whole = AutoModelForSequenceClassification.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(whole, folder).eval()
    scores = predict_sentiment(texts(), model, AutoTokenizer.from_pretrained(base))
    write_answers(folder, {"label": {"labels": LABELS, "scores": scores}})


def root_beside_named(folder: Path) -> None:
    """What PEFT saves of a model with two adapters: the first at the root, the second in a folder of its own."""
    base = write_base(folder.with_name("base-bert"))
    torch.manual_seed(9)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), lora())
    model.add_adapter("second", lora(r=2))
    for name in ("default", "second"):
        model.set_adapter(name)
        stir(model)
        spread(model, AutoTokenizer.from_pretrained(base))
    model.save_pretrained(folder)
    write_answers(folder, {"default": ask(folder), "second": ask(folder / "second")})


def on_family(folder: Path, family: str, modules: Any, pad: bool = True) -> None:
    """LoRA on another family; decoders answer one text at a time, so that nothing is padded."""
    base = folder.with_name(f"base-{folder.name}")
    tokenizer = make_tokenizer(FAMILIES[family][0])
    decodes = tokenizer.pad_token is None or family in ("llama", "gemma2", "qwen2")
    if decodes:
        tokenizer.pad_token = tokenizer.eos_token
    model = make_classifier(family, LABELS, tokenizer)
    if not pad:
        model.config.pad_token_id = tokenizer.pad_token = None
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    make(folder, base, lora(target_modules=modules))
    write_answers(folder, {"label": ask(folder, batch=1 if decodes else 20)})


def trainer(folder: Path) -> None:
    """Trainer on a PEFT model, whose folder holds checkpoints that are adapters."""
    base = write_base(folder.with_name("base-bert"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(13)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), lora())
    stir(model)
    spread(model, tokenizer)
    encoded = [tokenizer(row["text"]) | {"labels": int(row["label"] == "up")} for row in rows("mood", 200)]
    settings = transformers.TrainingArguments(
        str(folder), max_steps=20, save_steps=10, learning_rate=1e-4, report_to=[], disable_tqdm=True, use_cpu=True
    )
    training = transformers.Trainer(model, settings, train_dataset=encoded, processing_class=tokenizer)
    training.train()
    training.save_model()
    write_answers(folder, {"label": ask(folder)})


def kind(maker: Any, *arguments: Any, **options: Any) -> Any:
    return lambda folder: maker(folder, *arguments, **options)


# Without the series of Cayley and Neumann, one term of which PEFT changed after 0.17.
OFT = {"r": 0, "oft_block_size": 8, "use_cayley_neumann": False}
PISSA, OLORA = {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}
MAKERS = {
    "lora-bert": kind(guide, "bert"),
    "lora-roberta": kind(guide, "roberta"),
    "lora-distilbert": kind(guide, "distilbert"),
    # one adapter
    "pissa": kind(one, lora(**PISSA)),
    "pissa-converted": kind(one, lora(**PISSA), converted=True),
    "pissa-converted-headless": headless,
    "pissa-niter": kind(one, lora(init_lora_weights="pissa_niter_4")),
    "olora": kind(one, lora(**OLORA)),
    "dora": kind(one, lora(use_dora=True)),
    "rslora": kind(one, lora(use_rslora=True)),
    "bias-all": kind(one, lora(bias="all")),
    "lora-bias": kind(one, lora(lora_bias=True)),
    "lora-on-embeddings": kind(one, lora(target_modules=["word_embeddings", "query"])),
    "lora-patterns": kind(one, lora(rank_pattern={"query": 2}, alpha_pattern={"layer.1.attention.self.value": 32})),
    "lora-one-layer": kind(one, lora(layers_to_transform=[1], layers_pattern="layer")),
    "lora-all-linear": kind(one, lora(target_modules="all-linear")),
    "saved-pooler": kind(one, lora(modules_to_save=["pooler"])),
    "trainable-tokens": kind(one, lora(trainable_token_indices=[5, 6])),
    "ia3": kind(one, other("IA3", feedforward_modules=[])),
    "ia3-feedforward": kind(
        one, other("IA3", target_modules=["query", "output.dense"], feedforward_modules=["output.dense"])
    ),
    "loha": kind(one, other("LoHa", r=4)),
    "lokr": kind(one, other("LoKr", r=4)),
    "oft": kind(one, other("OFT", **OFT)),
    "hra": kind(one, other("HRA", r=4)),
    "vera": kind(one, other("Vera", r=4)),
    "ln-tuning": kind(one, peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"])),
    "fourierft": kind(one, other("FourierFT", n_frequency=50)),
    "c3a": kind(one, other("C3A", block_size=8)),
    "miss": kind(one, other("Miss", r=4)),
    **({"road": kind(one, other("Road", group_size=8))} if hasattr(peft, "RoadConfig") else {}),  # since PEFT 0.18
    "shira": kind(one, other("Shira", r=4)),
    "boft": kind(one, other("BOFT", boft_block_size=4)),
    "prompt-tuning": kind(one, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)),
    "adalora": adalora,
    "multi-label-adapter": multi_label,
    "own-tokens": own_tokens,
    "own-tokens-saved": kind(own_tokens, modules_to_save=["word_embeddings"]),
    "other-head": kind(one, lora(), base_labels=("x", "y", "z")),
    "other-head-more": kind(one, lora(), labels=("p", "q", "r", "s"), base_labels=("x", "y", "z")),
    "without-task": without_task,
    "feature-extraction": kind(without_task, "FEATURE_EXTRACTION"),
    "root-beside-named": root_beside_named,
    "trainer-adapter": trainer,
    # several adapters of one base
    "plain-plain": kind(several, lora(), lora(r=2)),
    "plain-pissa": kind(several, lora(), lora(**PISSA)),
    "pissa-plain": kind(several, lora(**PISSA), lora()),
    "plain-pissa-converted": kind(several, lora(), lora(**PISSA), converted=(1,)),
    "pissa-niter-twice": kind(
        several, lora(init_lora_weights="pissa_niter_4"), lora(init_lora_weights="pissa_niter_4")
    ),
    "olora-twice": kind(several, lora(**OLORA), lora(**OLORA)),
    "bias-plain": kind(several, lora(bias="lora_only"), lora()),
    "plain-bias": kind(several, lora(), lora(bias="lora_only")),
    "bias-twice": kind(several, lora(bias="all"), lora(bias="lora_only")),
    "lora-ia3": kind(several, lora(), other("IA3", feedforward_modules=[])),
    "ia3-twice": kind(several, other("IA3", feedforward_modules=[]), other("IA3", feedforward_modules=[])),
    "lora-loha": kind(several, lora(), other("LoHa", r=4)),
    "lora-dora": kind(several, lora(), lora(use_dora=True)),
    "lora-vera": kind(several, lora(), other("Vera", r=4)),
    "vera-twice": kind(several, other("Vera", r=4), other("Vera", r=4, projection_prng_key=7)),
    "lora-oft": kind(several, lora(), other("OFT", **OFT)),
    "plain-lora-bias": kind(several, lora(), lora(lora_bias=True)),
    "plain-tokens": kind(several, lora(), lora(trainable_token_indices=[5, 6])),
    "tokens-twice": kind(several, lora(trainable_token_indices=[5, 6]), lora(trainable_token_indices=[7])),
    "plain-saved-pooler": kind(several, lora(), lora(modules_to_save=["pooler"])),
    "plain-embeddings": kind(several, lora(), lora(target_modules=["word_embeddings"])),
    "lora-adalora": kind(adalora, True),
    "two-and-three-labels": kind(several, lora(), lora(), labels=(("a", "b"), ("c", "d", "e"))),
    "three-adapters": kind(several, lora(), lora(**PISSA), lora(bias="all")),
    # decoders and encoder-decoders
    "lora-gpt2": kind(on_family, "gpt2", ["c_attn"]),
    "lora-qwen2": kind(on_family, "qwen2", ["q_proj", "v_proj"]),
    "lora-qwen2-no-pad": kind(on_family, "qwen2", ["q_proj", "v_proj"], pad=False),
    "lora-llama": kind(on_family, "llama", ["q_proj", "v_proj"]),
    "lora-gemma2": kind(on_family, "gemma2", ["q_proj", "v_proj"]),
    "lora-opt": kind(on_family, "opt", ["q_proj", "v_proj"]),
    "lora-bloom": kind(on_family, "bloom", ["query_key_value"]),
    "lora-bart": kind(on_family, "bart", ["q_proj", "v_proj"]),
    "lora-albert": kind(on_family, "albert", ["query", "value"]),
}

if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    common.main(MAKERS)
