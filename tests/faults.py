"""The list of broken and hostile model folders: from what each is made, its one fault, what its refusal must say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hostile import (
    ADAPTER,
    MARK,
    WEIGHTS,
    Fault,
    Spoil,
    both,
    cut,
    drop,
    edit,
    external,
    fifo,
    graph,
    header,
    labels,
    link,
    pickled,
    pinned,
    point,
    poison,
    raw_header,
    remove,
    sparse,
    tensors,
    write,
)

CONFIG, SETTINGS, TOKENIZER = "config.json", "adapter_config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
HUGE = "9" * 100_000


def _behead(held: dict[str, Any]) -> None:
    for name in [name for name in held if "classifier" in name]:
        del held[name]


def _forget(folder: Path) -> None:
    """Leave one shard out of the index, though it is there."""
    weights = json.loads((folder / INDEX).read_text())["weight_map"]
    gone = sorted(set(weights.values()))[0]
    edit(INDEX, weight_map={name: file for name, file in weights.items() if file != gone})(folder)


def _retask(**fields: Any) -> Spoil:
    """Change the task of a bundle."""

    def spoil(folder: Path) -> None:
        tasks = json.loads((folder / "bundle.json").read_text())["tasks"]
        edit("bundle.json", tasks={"mood": {**tasks["mood"], **fields}})(folder)

    return spoil


def _listed(name: str) -> Spoil:
    """Name one more file in a bundle, with some digest."""

    def spoil(folder: Path) -> None:
        files = json.loads((folder / "bundle.json").read_text())["files"]
        edit("bundle.json", files={**files, name: "0" * 64})(folder)

    return spoil


CLASSIFIER_FAULTS = [
    # Half of a download
    ("empty folder", remove(CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json"), "is empty. A model folder has"),
    (
        "download not finished",
        both(remove(WEIGHTS), write(f"{WEIGHTS}.incomplete", b"\0" * 99)),
        "unfinished download",
    ),
    ("config missing", remove(CONFIG), "weights without their config.json"),
    ("weights cut off", cut(WEIGHTS), "not a complete safetensors file"),
    ("weights empty", write(WEIGHTS, b""), "not a complete safetensors file"),
    (
        "weights a text of a large-file store",
        write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        "pointer of Git LFS",
    ),
    ("weights a web page", write(WEIGHTS, "<html>" + "sign in " * 99), "not a complete safetensors file"),
    (
        "weights too long",
        lambda at: os.truncate(at / WEIGHTS, (at / WEIGHTS).stat().st_size + 8),
        "not a complete safetensors file",
    ),
    ("weights sparse", sparse(WEIGHTS), "not a complete safetensors file"),
    ("tokenizer missing", remove(TOKENIZER, "tokenizer_config.json"), "no tokenizer"),
    ("tokenizer sparse", sparse(TOKENIZER), "bytes"),
    ("config sparse", sparse(CONFIG), "bytes"),
    # What is no file, or is somewhere else
    ("config a link out", link(CONFIG), "outside the model folder"),
    ("weights a link out", link(WEIGHTS), "outside the model folder"),
    ("tokenizer a link out", link(TOKENIZER), "outside the model folder"),
    ("tokenizer_config a link out", link("tokenizer_config.json"), "outside the model folder"),
    ("config a link to itself", point(CONFIG, CONFIG), "broken link"),
    ("weights a link to itself", point(WEIGHTS, WEIGHTS), "broken link"),
    ("weights a link to nothing", point(WEIGHTS, "gone"), "broken link"),
    ("weights a link to zeros without end", point(WEIGHTS, "/dev/zero"), "outside the model folder"),
    ("config a link to zeros without end", point(CONFIG, "/dev/zero"), "outside the model folder"),
    ("config a pipe", fifo(CONFIG), "not a file"),
    ("weights a pipe", fifo(WEIGHTS), "not a file"),
    ("tokenizer a pipe", fifo(TOKENIZER), "not a file"),
    ("tokenizer_config a pipe", fifo("tokenizer_config.json"), "not a file"),
    ("weights a folder", both(remove(WEIGHTS), write(f"{WEIGHTS}/x", "")), "not a file"),
    ("bundle.json a link to itself", point("bundle.json", "bundle.json"), "bundle.json"),
    ("bundle.json a pipe", fifo("bundle.json"), "not a file"),
    # A config that is no JSON, or no object
    ("config empty", write(CONFIG, ""), "as JSON"),
    ("config no JSON", write(CONFIG, '{"model_type": '), "as JSON"),
    ("config no UTF-8", write(CONFIG, b"\xff\xfe{}"), "as JSON"),
    ("config a list", write(CONFIG, "[]"), "an object"),
    ("config nested deep", write(CONFIG, "[" * 100_000), "as JSON"),
    ("config nested deep in objects", write(CONFIG, '{"a":' * 100_000), "as JSON"),
    ("config of 50 MB", write(CONFIG, '{"a": "' + "x" * 50_000_000 + '"}'), "bytes"),
    ("config with a number of 100,000 digits", write(CONFIG, f'{{"model_type": "bert", "x": {HUGE}}}'), "as JSON"),
    # Sizes that cannot be
    ("layers 10**9", edit(CONFIG, num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    ("layers 200", edit(CONFIG, num_hidden_layers=200, hidden_size=4096), "do not belong together"),
    ("layers negative", edit(CONFIG, num_hidden_layers=-1), "num_hidden_layers is -1"),
    ("layers zero", edit(CONFIG, num_hidden_layers=0), "num_hidden_layers is 0"),
    ("layers a text", edit(CONFIG, num_hidden_layers="2"), "num_hidden_layers"),
    ("layers a fraction", edit(CONFIG, num_hidden_layers=2.5), "num_hidden_layers"),
    ("layers a truth value", edit(CONFIG, num_hidden_layers=True), "num_hidden_layers"),
    ("layers NaN", edit(CONFIG, num_hidden_layers=float("nan")), "num_hidden_layers|as JSON"),
    ("layers infinite", edit(CONFIG, num_hidden_layers=float("inf")), "num_hidden_layers|as JSON"),
    ("layers null", edit(CONFIG, num_hidden_layers=None), "num_hidden_layers"),
    ("vocabulary 10**12", edit(CONFIG, vocab_size=10**12), "vocab_size"),
    ("vocabulary a million", edit(CONFIG, vocab_size=1_000_000), "do not belong together"),
    ("positions 10**12", edit(CONFIG, max_position_embeddings=10**12), "max_position_embeddings"),
    ("hidden size a list", edit(CONFIG, hidden_size=[32]), "hidden_size"),
    ("hidden size not divisible", edit(CONFIG, hidden_size=33), "divided"),
    ("no heads", edit(CONFIG, num_attention_heads=0), "num_attention_heads"),
    (
        "two names for one size",
        edit(CONFIG, model_type="distilbert", dim=16384, hidden_dim=65536, n_layers=99),
        "belong",
    ),
    ("a kernel 10**9 wide", edit(CONFIG, model_type="deberta-v2", conv_kernel_size=10**9), "conv_kernel_size"),
    ("relative positions 10**9", edit(CONFIG, model_type="deberta", max_relative_positions=10**9), "max_relative"),
    ("buckets 10**9", edit(CONFIG, model_type="mpnet", relative_attention_num_buckets=10**9), "relative_attention"),
    ("pooler 10**9", edit(CONFIG, model_type="deberta-v2", pooler_hidden_size=10**9), "pooler_hidden_size"),
    ("labels 10**9", both(drop(CONFIG, "id2label", "label2id"), edit(CONFIG, num_labels=10**9)), "labels"),
    ("number of labels a text", edit(CONFIG, num_labels="3"), "config.json: num_labels is 3; it must be"),
    ("type of the weights unknown", edit(CONFIG, dtype="float33"), "config.json: dtype is 'float33'"),
    ("type of the weights a number", edit(CONFIG, torch_dtype=32), "config.json: torch_dtype is '32'"),
    (
        "positions an object",
        edit(CONFIG, position_embedding_type={}),
        "position_embedding_type is {}; it must",
    ),
    ("a size nobody knows 10**18", edit(CONFIG, some_size=10**18), "some_size"),
    ("a dropout that is a text", edit(CONFIG, hidden_dropout_prob="much"), "config.json: .* 'hidden_dropout_prob'"),
    ("attention of a missing library", edit(CONFIG, _attn_implementation="flash_attention_2"), "Remove that setting"),
    ("no architecture", edit(CONFIG, architectures=None), "names no architecture"),
    (
        "labels of tokens",
        edit(CONFIG, architectures=["BertForTokenClassification"]),
        "no classification head for texts",
    ),
    ("an activation nobody knows", edit(CONFIG, hidden_act="os.system"), "do not fit"),
    # Another kind of model
    ("model_type unknown", edit(CONFIG, model_type="brain"), "model_type 'brain'"),
    ("model_type missing", drop(CONFIG, "model_type"), "model_type"),
    ("model_type a list", edit(CONFIG, model_type=["bert"]), "model_type"),
    ("model_type of pictures", edit(CONFIG, model_type="vit"), "model_type 'vit'"),
    ("model_type another that is known", edit(CONFIG, model_type="distilbert"), "random|do not fit"),
    ("no head in the config", edit(CONFIG, architectures=["BertModel"]), "classification head"),
    ("architectures a number", edit(CONFIG, architectures=7), "architectures"),
    ("architectures of a generator", edit(CONFIG, architectures=["BertLMHeadModel"]), "classification head"),
    ("head missing", tensors(WEIGHTS, _behead), "random"),
    ("layer missing", tensors(WEIGHTS, lambda t: [t.pop(k) for k in list(t) if "layer.1." in k]), "random"),
    ("head of another shape", labels({"0": "a", "1": "b", "2": "c"}), "3 labels|do not fit"),
    ("weights of another shape", edit(CONFIG, intermediate_size=32), "do not fit"),
    ("regression", edit(CONFIG, problem_type="regression"), "regression"),
    ("one output", labels({"0": "score"}), "other shapes"),
    ("problem_type unknown", edit(CONFIG, problem_type="poetry"), "problem_type 'poetry'"),
    ("problem_type a list", edit(CONFIG, problem_type=[]), "problem_type"),
    ("stored as GPTQ", edit(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
    ("stored as AWQ", edit(CONFIG, quantization_config={"quant_method": "awq", "bits": 4}), "awq"),
    ("stored as FP8", edit(CONFIG, quantization_config={"quant_method": "fp8"}), "fp8"),
    ("stored in a way that is a text", edit(CONFIG, quantization_config="gptq"), "quantised"),
    # Code
    ("auto_map", edit(CONFIG, auto_map={"AutoModelForSequenceClassification": "evil.Model"}), "code of its own"),
    ("auto_map and its code", both(write("evil.py", MARK), edit(CONFIG, auto_map={"AutoConfig": "evil.C"})), "code"),
    ("auto_map of the tokenizer", edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}), "code"),
    ("trust_remote_code", edit(CONFIG, trust_remote_code=True), "code"),
    ("trust_remote_code further in", edit(CONFIG, text_config={"a": [{"trust_remote_code": True}]}), "code"),
    ("trust_remote_code behind much else", edit(CONFIG, a="x" * 900_000, z={"trust_remote_code": 1}), "code"),
    ("auto_map further in", edit(CONFIG, text_config={"auto_map": {"AutoConfig": "evil.C"}}), "code"),
    ("Python code", write("modeling_evil.py", MARK), "Python code"),
    ("pickled weights", both(remove(WEIGHTS), pickled("pytorch_model.bin")), "inference import weights"),
    ("weights a pickle by another name", pickled(WEIGHTS), "not a complete safetensors file"),
    ("pickled heads", pickled("task_heads.pt"), "inference import rapidfit"),
    ("pickle in a .pt", both(remove(WEIGHTS), pickled("model.pt")), "format of its own"),
    ("pickle in a .pkl", both(remove(WEIGHTS), pickled("model.pkl")), "pickle"),
    ("pickle in a .h5", both(remove(WEIGHTS), pickled("tf_model.h5")), "TensorFlow"),
    ("an adapter in the model", both(edit(SETTINGS, base_model_name_or_path="../x"), pickled("a.bin")), SETTINGS),
    ("weights elsewhere", edit(CONFIG, transformers_weights="../outside/model.safetensors"), "transformers_weights"),
    # Headers of safetensors
    ("header of 2**63 bytes", raw_header(WEIGHTS, 2**63, b"{}"), "not a complete"),
    ("header of 2**64 - 1 bytes", raw_header(WEIGHTS, 2**64 - 1, b"{}"), "not a complete"),
    ("header of no bytes", raw_header(WEIGHTS, 0), "not a complete"),
    ("header no JSON", raw_header(WEIGHTS, 4, b"ABCD"), "not a complete"),
    ("header a list", raw_header(WEIGHTS, 2, b"[]"), "not a complete"),
    ("header nested deep", raw_header(WEIGHTS, 100_000, b"[" * 100_000), "not a complete"),
    ("header without tensors", raw_header(WEIGHTS, 2, b"{}"), "belong together|random"),
    ("offsets negative", header(WEIGHTS, data_offsets=[-8, 0]), "not a complete|do not fit"),
    ("offsets swapped", header(WEIGHTS, data_offsets=[64, 0]), "not a complete"),
    ("offsets overlapping", header(WEIGHTS, data_offsets=[0, 4096]), "not a complete|do not fit"),
    ("offsets of the wrong kind", header(WEIGHTS, data_offsets=["a", None]), "not a complete"),
    ("shape whose product overflows", header(WEIGHTS, shape=[2**32, 2**32]), "not a complete"),
    ("shape negative", header(WEIGHTS, shape=[-2, -3]), "not a complete"),
    ("shape zero", header(WEIGHTS, shape=[0]), "not a complete|do not fit"),
    ("shape infinite", header(WEIGHTS, shape=[float("inf")]), "not a complete"),
    ("type unknown", header(WEIGHTS, dtype="F7"), "not a complete|do not fit"),
    ("weights NaN", tensors(WEIGHTS, poison(float("nan"))), "NaN or infinity"),
    ("weights infinite", tensors(WEIGHTS, poison(float("-inf"))), "NaN or infinity"),
    # Labels
    ("labels with a gap", labels({"0": "a", "2": "b"}), "gap"),
    ("labels from 1", labels({"1": "a", "2": "b"}), "gap"),
    ("labels a list", labels(["a", "b"]), "object"),
    ("labels doubled", labels({"0": "a", "1": "a"}), "name of its own"),
    ("labels empty", labels({"0": "", "1": "b"}), "name of its own"),
    ("labels null", labels({"0": None, "1": {}}), "name of its own"),
    ("label of 900 kB", labels({"0": "x" * 900_000, "1": "b"}), "1 to 200 characters"),
    ("label of two lines", labels({"0": "a\nb", "1": "b"}), "control"),
    ("label that moves the cursor", labels({"0": "a\x1b[2J", "1": "b"}), "control"),
    ("label half a character", labels({"0": "\ud800", "1": "b"}), "control"),
    ("labels by the 20,000", labels({str(i): f"n{i}" for i in range(20_000)}), "10,000"),
    # Tokenizers
    ("tokenizer empty", write(TOKENIZER, ""), "Cannot read the tokenizer"),
    ("tokenizer cut off", cut(TOKENIZER), "Cannot read the tokenizer"),
    ("tokenizer no object", write(TOKENIZER, "[1]"), "Cannot read the tokenizer"),
    ("tokenizer without a model", drop(TOKENIZER, "model"), "Cannot read the tokenizer"),
    ("tokenizer of a kind nobody knows", edit(TOKENIZER, model={"type": "Evil"}), "Cannot read the tokenizer"),
    (
        "tokenizer with a vocabulary of texts",
        edit(TOKENIZER, model={"type": "WordPiece", "vocab": {"a": "b"}}),
        "[Nn]o tok|Cannot read the tok",
    ),
    ("tokenizer nested deep", write(TOKENIZER, '{"a":' * 100_000), "Cannot read the tokenizer"),
    ("tokenizer of a larger model", edit(CONFIG, vocab_size=50), "embeddings|do not fit"),
]
SHARDS_FAULTS = [
    ("shard missing", lambda at: sorted(at.glob("model-0*"))[0].unlink(), "missing"),
    ("shard cut off", lambda at: cut(sorted(at.glob("model-0*"))[0].name)(at), "not a complete"),
    ("shard a link out", lambda at: link(sorted(at.glob("model-0*"))[0].name)(at), "outside the model folder"),
    ("shard that the index leaves out", _forget, "random"),
    ("index that leaves the folder", edit(INDEX, weight_map={"a": "../outside/x.safetensors"}), "not a list"),
    ("index of the folder above", edit(INDEX, weight_map={"a": ".."}), "not a list|not a file"),
    ("index of a pickle", both(edit(INDEX, weight_map={"a": "a.bin"}), pickled("a.bin")), "not a list|not a complete"),
    ("index of numbers", edit(INDEX, weight_map={"a": 1}), "not a list"),
    ("index without a map", drop(INDEX, "weight_map"), "not a list"),
    ("index no JSON", write(INDEX, "{"), "as JSON"),
    ("index a pipe", fifo(INDEX), "not a file"),
]
ADAPTER_FAULTS = [
    ("settings no JSON", write(SETTINGS, "{"), "as JSON"),
    ("settings a link out", link(SETTINGS), "outside the model folder"),
    ("adapter a link out", link(ADAPTER), "outside the model folder"),
    ("adapter a pipe", fifo(ADAPTER), "not a file|no bundle.json"),
    ("adapter cut off", cut(ADAPTER), "not a complete"),
    ("adapter sparse", sparse(ADAPTER), "not a complete"),
    ("adapter a pickle", both(remove(ADAPTER), pickled("adapter_model.bin")), "inference import weights"),
    ("adapter NaN", tensors(ADAPTER, poison(float("nan"))), "NaN or infinity"),
    (
        "adapter lacks a layer",
        tensors(ADAPTER, lambda t: t.pop(next(k for k in t if "lora_A" in k))),
        "does not fit its base",
    ),
    ("adapter without a head", tensors(ADAPTER, _behead), "head"),
    ("adapter of a larger base", edit(f"../base/{CONFIG}", hidden_size=64), "do not fit"),
    ("base missing", remove("../base"), "base"),
    ("base without weights", remove(f"../base/{WEIGHTS}"), "no weights"),
    ("base of another architecture", edit(f"../base/{CONFIG}", model_type="distilbert"), "random|do not fit"),
    ("base that is a brain", edit(f"../base/{CONFIG}", model_type="brain"), "model_type 'brain'"),
    ("base with code of its own", edit(f"../base/{CONFIG}", auto_map={"AutoModel": "evil.M"}), "code of its own"),
    ("base with Python code", write("../base/evil.py", MARK), "Python code"),
    ("base with an adapter of its own", edit(f"../base/{SETTINGS}", base_model_name_or_path="x"), SETTINGS),
    ("base whose weights are a link out", link(f"../base/{WEIGHTS}"), "outside the model folder"),
    ("base 10**9 layers", edit(f"../base/{CONFIG}", num_hidden_layers=10**9), "num_hidden_layers"),
    ("base stored in 8 bits", edit(f"../base/{CONFIG}", quantization_config={"quant_method": "gptq"}), "quantised"),
    ("base above", edit(SETTINGS, base_model_name_or_path="../../.."), "base"),
    ("base of the system", edit(SETTINGS, base_model_name_or_path="/etc"), "base"),
    ("base an option", edit(SETTINGS, base_model_name_or_path="-rf"), "base"),
    ("base a number", edit(SETTINGS, base_model_name_or_path=7), "base_model_name_or_path"),
    ("base empty", edit(SETTINGS, base_model_name_or_path=""), "base_model_name_or_path"),
    ("base with a zero byte", edit(SETTINGS, base_model_name_or_path="a\0b"), "base"),
    ("base of 10,000 letters", edit(SETTINGS, base_model_name_or_path="b" * 10_000), "base"),
    ("base an address", edit(SETTINGS, base_model_name_or_path="http://127.0.0.1:9/x"), "base"),
    ("base an id that is nowhere", edit(SETTINGS, base_model_name_or_path="nobody/nothing"), "base"),
    ("revision that leaves the folder", edit(SETTINGS, base_model_name_or_path="a/b", revision="../../x"), "revision"),
    ("revision a list", edit(SETTINGS, revision=["main"]), "revision"),
    ("prompt tuning", edit(SETTINGS, peft_type="PROMPT_TUNING"), "PROMPT_TUNING"),
    ("a type that compiles code", edit(SETTINGS, peft_type="BOFT"), "BOFT"),
    ("a type that is a list", edit(SETTINGS, peft_type=["LORA"]), "are not served"),
    ("adapter of a generator", edit(SETTINGS, task_type="CAUSAL_LM"), "CAUSAL_LM"),
    ("megatron", edit(SETTINGS, megatron_config={"a": 1}, megatron_core="evil"), "megatron_config"),
    ("auto_mapping", edit(SETTINGS, auto_mapping={"base_model_class": "B", "parent_library": "evil"}), "auto_mapping"),
    ("auto_map of an adapter", edit(SETTINGS, auto_map={"AutoModel": "evil.M"}), "auto_map"),
    ("layers repeated", edit(SETTINGS, layer_replication=[[0, 10**9]]), "layer_replication"),
    ("adapter with Python code", write("evil.py", MARK), "Python code"),
    ("rank 10**9", edit(SETTINGS, r=10**9), "not a rank"),
    ("rank negative", edit(SETTINGS, r=-4), "not a rank"),
    ("rank a text", edit(SETTINGS, r="4"), "not a rank"),
    ("rank a truth value", edit(SETTINGS, r=True), "not a rank"),
    ("rank of other bytes", edit(SETTINGS, r=8), "do not fit"),
    ("rank of a layer 10**9", edit(SETTINGS, rank_pattern={"query": 10**9}), "not a rank"),
    ("rank to begin with 10**9", edit(SETTINGS, peft_type="ADALORA", init_r=10**9, total_step=9), "not a rank"),
    ("modules by a pattern without end", edit(SETTINGS, target_modules="(([a-z0-9.]+)+)+!"), "target_modules"),
    ("modules by a bad pattern", edit(SETTINGS, target_modules="(a+)+$"), "target_modules"),
    ("modules by no pattern", edit(SETTINGS, target_modules="*("), "target_modules"),
    ("modules by a long pattern", edit(SETTINGS, target_modules="(" * 9_000 + ")" * 9_000), "target_modules"),
    ("modules by many patterns", edit(SETTINGS, target_modules=".*" * 30 + "!"), "target_modules"),
    ("modules a number", edit(SETTINGS, target_modules=7), "target_modules"),
    ("modules none that exist", edit(SETTINGS, target_modules=["nothing"]), "do not fit"),
    ("modules kept out by a pattern", edit(SETTINGS, exclude_modules="((.+)+)+!"), "exclude_modules"),
    ("ranks by a pattern without end", edit(SETTINGS, rank_pattern={"((.+)+)+!": 4}), "rank_pattern"),
    ("layers by a pattern", edit(SETTINGS, layers_to_transform=[0], layers_pattern="((.+)+)+!"), "layers_pattern"),
    ("modules saved that are not there", edit(SETTINGS, modules_to_save=["embeddings", "x"]), "does not fit its base"),
    ("modules saved a number", edit(SETTINGS, modules_to_save=7), "modules_to_save"),
    ("tokenizer of the adapter a link out", both(write(TOKENIZER, "{}"), link(TOKENIZER)), "outside the model folder"),
    (
        "names of labels a link out",
        both(write(CONFIG, '{"id2label": {"0": "a"}}'), link(CONFIG)),
        "outside the model folder",
    ),
    ("names of more labels than there are", write(CONFIG, '{"id2label": {"0": "a", "1": "b", "2": "c"}}'), "3 labels"),
    (
        "code for the adapter's tokenizer",
        both(write(TOKENIZER, "{}"), edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})),
        "code of its own",
    ),
]
ADAPTERS_FAULTS = [
    ("one of the folders a link out", link("mood"), "outside the model folder"),
    ("one without a head", lambda at: tensors(ADAPTER, _behead)(at / "mood"), "head"),
    ("one cut off", cut(f"mood/{ADAPTER}"), "not a complete"),
    ("one of another base", edit(f"mood/{SETTINGS}", base_model_name_or_path="other/base"), "different bases"),
    ("one of prompt tuning", edit(f"topic/{SETTINGS}", peft_type="PREFIX_TUNING"), "PREFIX_TUNING"),
    ("one NaN", lambda at: tensors(ADAPTER, poison(float("nan")))(at / "topic"), "NaN or infinity"),
    ("two whose names are one", lambda at: (at / "mood").rename(at / "topic!"), "differ only in punctuation"),
    ("one with Python code", write("mood/evil.py", MARK), "Python code"),
]
BUNDLE_FAULTS = [
    ("no JSON", write("bundle.json", "{"), "as JSON"),
    ("nested deep", write("bundle.json", '{"a":' * 100_000), "as JSON"),
    ("of 5 GB", sparse("bundle.json"), "bytes"),
    ("task with markup", edit("bundle.json", tasks={"<script>": {}}), "letters"),
    ("label of 900 kB", _retask(labels=["x" * 900_000, "b"]), "label"),
    ("label of two lines", _retask(labels=["a\nb", "c"]), "label"),
    ("labels of another number", _retask(labels=["a", "b", "c"]), "do not fit"),
    ("labels lists", _retask(labels=[["a"], ["b"]]), "label"),
    ("threshold NaN", _retask(threshold=float("nan")), "threshold"),
    ("pooling a list", edit("bundle.json", pooling=["mean"]), "pooling"),
    ("encoder a link out", link("encoder"), "outside the model folder"),
    ("encoder elsewhere", edit("bundle.json", base={"folder": "../outside", "files": {}}), "base.folder"),
    ("encoder's weights a link out", link(f"encoder/{WEIGHTS}"), "outside the model folder"),
    ("encoder's weights cut off", cut(f"encoder/{WEIGHTS}"), "not a complete|has SHA-256"),
    ("adapter a link out", link("adapter"), "outside the model folder"),
    ("heads a link out", link("heads.safetensors"), "outside the model folder"),
    ("heads a pipe", fifo("heads.safetensors"), "missing|not a file"),
    ("heads sparse", sparse("heads.safetensors"), "not a complete"),
    ("another file sparse", both(write("x.bin", b""), sparse("x.bin"), _listed("x.bin")), "bytes"),
    ("heads a pickle", pinned(pickled("heads.safetensors")), "do not fit|not a complete"),
    ("heads wider than the encoder", edit("bundle.json", heads={"hidden": [65536] * 8}), "do not fit"),
    ("heads NaN", pinned(tensors("heads.safetensors", lambda t: t["mood.bias"].fill_(float("nan")))), "NaN"),
    ("encoder with 10**9 layers", pinned(edit(f"encoder/{CONFIG}", num_hidden_layers=10**9)), "num_hidden_layers"),
    ("encoder with a vocabulary of a million", pinned(edit(f"encoder/{CONFIG}", vocab_size=10**6)), "belong together"),
    ("encoder a brain", pinned(edit(f"encoder/{CONFIG}", model_type="brain")), "model_type 'brain'"),
    ("encoder with code", pinned(edit(f"encoder/{CONFIG}", auto_map={"AutoModel": "evil.M"})), "code of its own"),
    ("encoder with Python code", write("encoder/evil.py", MARK), "Python code"),
    ("encoder with an adapter", edit(f"encoder/{SETTINGS}", base_model_name_or_path="x"), SETTINGS),
    ("encoder NaN", pinned(tensors(f"encoder/{WEIGHTS}", poison(float("nan")))), "NaN"),
    ("tokenizer of a larger model", pinned(edit(f"encoder/{CONFIG}", vocab_size=50)), "embeddings|do not fit"),
    (
        "adapter by a pattern without end",
        pinned(edit(f"adapter/{SETTINGS}", target_modules="((.+)+)+!")),
        "target_modules",
    ),
    ("adapter of megatron", pinned(edit(f"adapter/{SETTINGS}", megatron_config={"a": 1})), "megatron"),
    ("adapter of rank 10**9", pinned(edit(f"adapter/{SETTINGS}", r=10**9)), "not a rank"),
    ("adapter's pickle", pinned(remove(f"adapter/{ADAPTER}"), pickled("adapter/adapter_model.bin")), "missing"),
]
ONNX_FAULTS = [
    ("graph empty", write("label.onnx", b""), "label.onnx"),
    ("graph cut off", cut("label.onnx"), "label.onnx"),
    ("graph a text", write("label.onnx", "not a graph at all"), "label.onnx"),
    ("graph a link out", link("label.onnx"), "outside the model folder"),
    ("graph a pipe", fifo("label.onnx"), "not a file"),
    ("graph of another task", lambda at: (at / "label.onnx").rename(at / "mood.onnx"), "label.onnx is missing"),
    ("weights out of the folder", graph(external("../outside/w.bin")), "w.bin|outside"),
    ("weights of the system", graph(external("/etc/passwd")), "passwd"),
    ("weights missing", graph(external("gone.bin")), "gone.bin"),
    ("an operator of a stranger", graph(lambda m: setattr(m.graph.node[0], "domain", "evil.ops")), "evil.ops"),
    ("no output", graph(lambda m: m.graph.ClearField("output")), "label"),
    ("labels doubled", edit("label_config.json", id2label={"0": "a", "1": "a"}), "name of its own"),
    ("labels of another number", edit("label_config.json", id2label={"0": "a", "1": "b", "2": "c"}), "3|labels"),
    ("configuration no JSON", write("label_config.json", "{"), "as JSON"),
    ("length a text", edit("label_config.json", max_length="128"), "max_length"),
    ("length negative", edit("label_config.json", max_length=-5), "max_length"),
    ("tokenizer a link out", link("tokenizer"), "outside the model folder"),
    ("tokenizer's file a link out", link("tokenizer/tokenizer.json"), "outside the model folder"),
    ("tokenizer's file a pipe", fifo("tokenizer/tokenizer.json"), "not a file"),
    ("tokenizer empty", write("tokenizer/tokenizer.json", ""), "tokenizer.json"),
    ("tokenizer a link to itself", both(remove("tokenizer"), point("tokenizer", "tokenizer")), "broken link"),
]
FAULTS = [
    Fault(f"{kind}: {name}", kind, spoil, says)
    for kind, faults in (
        ("classifier", CLASSIFIER_FAULTS),
        ("shards", SHARDS_FAULTS),
        ("adapter", ADAPTER_FAULTS),
        ("adapters", ADAPTERS_FAULTS),
        ("bundle", BUNDLE_FAULTS),
        ("onnx", ONNX_FAULTS),
    )
    for name, spoil, says in faults
]
