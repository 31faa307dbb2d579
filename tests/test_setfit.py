"""Models of SetFit become bundles that answer as SetFit does; nothing in their pickled head is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import joblib
import numpy as np
import pytest
import torch
from hostile import edit
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from inference import BundleError, load
from inference.__main__ import main
from inference.artifacts.importing import import_setfit
from inference.artifacts.parity import score_rows
from inference.formats.describe import describe

MODULES = "sentence_transformers.models."
POOLINGS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.base(tmp_path_factory.mktemp("setfit") / "base")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def body(folder: Path, encoder: Path, pooling: str = "mean", *modules: str, **settings: Any) -> Path:
    """A model of sentence-transformers, in the files that its versions before 5 write."""
    from safetensors.torch import save_file

    shutil.copytree(encoder, folder)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [(kind.partition(":")[0], f"{number}_{kind[:5]}") for number, kind in enumerate(modules, 2)]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": at, "type": MODULES + kind} for i, (kind, at) in enumerate(kinds)],
    )
    modes = {f"pooling_mode_{name}": key == pooling for key, name in POOLINGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes, "include_prompt": True})
    torch.manual_seed(3)
    for module, (kind, at) in zip(modules, kinds[2:], strict=True):
        activation = f"torch.nn.modules.{'linear' if module.endswith('Identity') else 'activation'}.{module[6:]}"
        write_json(folder / at / "config.json", {"activation_function": activation})
        if kind == "Dense":
            save_file(torch.nn.Linear(32, 32).state_dict(prefix="linear."), folder / at / "model.safetensors")
    write_json(folder / "config_setfit.json", {"labels": None, "normalize_embeddings": False, **settings})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    return folder


def vectors(folder: Path, pooling: str, *modules: str, normalize: bool = False) -> NDArray[np.float64]:
    """Sentence vectors of TEXTS, as sentence-transformers makes them."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.no_grad():
        for text in foreign.TEXTS:
            feed = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
            hidden = model(input_ids=feed["input_ids"], attention_mask=feed["attention_mask"]).last_hidden_state[0]
            rows.append({"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pooling])
        made = torch.stack(rows)
        for number, module in enumerate(modules, 2):
            if module == "Normalize":
                made = torch.nn.functional.normalize(made, dim=1)
            else:
                layer = load_file(folder / f"{number}_Dense" / "model.safetensors")
                made = made @ layer["linear.weight"].T + layer["linear.bias"]
                made = made if module.endswith("Identity") else getattr(torch.nn, module[6:])()(made)
        return (torch.nn.functional.normalize(made, dim=1) if normalize else made).double().numpy()


def regression(classes: Any = (0, 1), rows: int = 2, **options: Any) -> LogisticRegression:
    """A regression that was fitted to random vectors."""
    rng = np.random.default_rng(len(classes))
    targets = np.array([classes[number % len(classes)] for number in range(24)])
    return LogisticRegression(**options).fit(rng.normal(0, 1, (24, 32)), targets)


def several(kind: Any) -> Any:
    rng = np.random.default_rng(1)
    return kind(LogisticRegression()).fit(rng.normal(0, 1, (24, 32)), rng.integers(0, 2, (24, 3)))


def answers(folder: Path, out: Path, backend: str = "pytorch") -> NDArray[np.float64]:
    import_setfit(folder, out)
    return score_rows(load(out, backend, cache=out.parent / "cache").predict(foreign.TEXTS))


@pytest.mark.parametrize(
    ("pooling", "modules", "normalize"),
    [
        ("mean", (), False),
        ("cls", ("Normalize",), False),
        ("max", (), True),
        ("mean", ("Dense:Tanh",), False),
        ("mean", ("Normalize", "Dense:Identity", "Dense:ReLU", "Dense:ReLU"), False),
    ],
)
def test_every_body_answers_as_sentence_transformers_and_scikit_learn(
    pooling: str, modules: tuple[str, ...], normalize: bool, encoder: Path, tmp_path: Path
) -> None:
    folder = body(tmp_path / "model", encoder, pooling, *modules, normalize_embeddings=normalize)
    head = regression(("angry", "calm", "glad"))
    joblib.dump(head, folder / "model_head.pkl")
    expected = head.predict_proba(vectors(folder, pooling, *modules, normalize=normalize))
    assert np.ptp(expected) > 0.01
    assert np.abs(answers(folder, tmp_path / "out") - expected).max() < 1e-5
    bundle = describe(tmp_path / "out")
    assert bundle.tasks["label"].labels == ("angry", "calm", "glad")
    assert bundle.max_tokens == 24


def test_imported_model_runs_on_onnx_and_int8(encoder: Path, tmp_path: Path) -> None:
    folder = body(tmp_path / "model", encoder, "mean", "Normalize", labels=["no", "yes"])
    head = regression()
    head.coef_ *= 20
    joblib.dump(head, folder / "model_head.pkl")
    expected = head.predict_proba(vectors(folder, "mean", "Normalize"))
    assert main(["import", "setfit", str(folder), str(tmp_path / "out")]) == 0
    for backend, allowed in (("onnx", 1e-5), ("int8", 0.25)):
        predictions = load(tmp_path / "out", backend, cache=tmp_path / "cache").predict(foreign.TEXTS)
        assert np.abs(score_rows(predictions) - expected).max() < allowed
    with pytest.raises(BundleError, match=r"is a SetFit model.*python -m inference import setfit"):
        load(folder)


def multinomial(head: LogisticRegression) -> LogisticRegression:
    """A softmax over two classes, as scikit-learn before 1.8 makes it on demand: of [-z, z]."""
    head.multi_class = "multinomial"
    return head


def softmax_of_two(head: LogisticRegression, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = 1 / (1 + np.exp(-2 * head.decision_function(rows)))
    return np.stack([1 - odds, odds], axis=1)


@pytest.mark.parametrize(
    ("head", "labels", "named", "expected"),
    [
        (regression(), None, ("0", "1"), None),
        (regression(("no", "yes")), ["a", "b"], ("no", "yes"), None),
        (regression((0, 2)), ["a", "b", "c"], ("a", "c"), None),
        (regression(tuple(np.array(["x", "y"], object))), None, ("x", "y"), None),
        (regression((0, 1, 2), fit_intercept=False), ["a", "b", "c"], ("a", "b", "c"), None),
        (multinomial(regression()), None, ("0", "1"), softmax_of_two),
        (several(OneVsRestClassifier), ["a", "b", "c"], ("a", "b", "c"), None),
        (
            several(MultiOutputClassifier),
            None,
            ("0", "1", "2"),
            lambda head, rows: np.stack([of_label[:, 1] for of_label in head.predict_proba(rows)], axis=1),
        ),
    ],
    ids=["numbers", "strings", "missing", "objects", "no-bias", "multinomial", "one-vs-rest", "multi-output"],
)
def test_every_head_answers_as_scikit_learn(
    head: Any, labels: Any, named: Any, expected: Callable[..., Any] | None, encoder: Path, tmp_path: Path
) -> None:
    folder = body(tmp_path / "model", encoder, labels=labels)
    joblib.dump(head, folder / "model_head.pkl")
    rows = vectors(folder, "mean")
    given = expected(head, rows) if expected else head.predict_proba(rows)
    assert np.abs(answers(folder, tmp_path / "out") - given).max() < 1e-5
    assert describe(tmp_path / "out").tasks["label"].labels == named


def test_head_that_pickle_itself_wrote_is_read_too(encoder: Path, tmp_path: Path) -> None:
    folder, head = body(tmp_path / "model", encoder), regression((0, 1, 2))
    for protocol in (3, 4):
        (folder / "model_head.pkl").write_bytes(pickle.dumps(head, protocol=protocol))
        expected = head.predict_proba(vectors(folder, "mean"))
        assert np.abs(answers(folder, tmp_path / f"out{protocol}") - expected).max() < 1e-5


class SetFitHead(torch.nn.Module):
    """What SetFit pickles as its differentiable head."""

    def __init__(self, multitarget: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(32, 3)
        self.temperature, self.eps, self.multitarget = 2.0, 1e-5, multitarget


@pytest.mark.parametrize("multitarget", [False, True])
def test_differentiable_head_answers_as_in_setfit(multitarget: bool, encoder: Path, tmp_path: Path) -> None:
    folder, head = body(tmp_path / "model", encoder, labels=["a", "b", "c"]), SetFitHead(multitarget)
    joblib.dump(head, folder / "model_head.pkl")
    logits = head.linear(torch.from_numpy(vectors(folder, "mean")).float()).double() / (head.temperature + head.eps)
    expected = (logits.sigmoid() if multitarget else logits.softmax(-1)).detach().numpy()
    assert np.abs(answers(folder, tmp_path / "out") - expected).max() < 1e-5


def one_per_label() -> LogisticRegression:
    head = regression((0, 1, 2))
    head.multi_class = "ovr"
    return head


def nested() -> bytes:
    stream = io.BytesIO()
    joblib.dump(np.array([np.array([np.array([np.array([1], object)], object)], object)], object), stream)
    return stream.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (one_per_label(), "not a softmax"),
        (OneVsRestClassifier(LogisticRegression()).fit(np.eye(32), np.arange(32) % 3), "not a softmax"),
        (several(ClassifierChain), "whose answers a linear layer cannot give"),
        (Evil(), "is a posix.system"),
        ({"coef_": 1}, "it holds a dict"),
        (b"\x80\x04K\x01", "has no end|exhausted"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "not a pickle"),
        (b"\x80\x04cos\nsystem\n(Vtouch evil\ntR.", "it holds the instruction UNICODE"),
        (b"\x80\x04\x88\x82\x01.", "instruction EXT1"),
        (nested(), "not a pickle|it holds a"),
    ],
)
def test_other_heads_are_refused_and_nothing_is_run(
    head: Any, message: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = body(tmp_path / "model", encoder)
    if isinstance(head, bytes):
        (folder / "model_head.pkl").write_bytes(head)
    else:
        joblib.dump(head, folder / "model_head.pkl")
    with pytest.raises(BundleError, match=message):
        import_setfit(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_damaged_head_is_refused(encoder: Path, tmp_path: Path) -> None:
    folder = body(tmp_path / "model", encoder)
    joblib.dump(regression(), folder / "model_head.pkl")
    content = (folder / "model_head.pkl").read_bytes()
    for cut in range(0, len(content), 37):
        (folder / "model_head.pkl").write_bytes(content[:cut])
        with pytest.raises(BundleError):
            import_setfit(folder, tmp_path / "out")
    joblib.dump(regression(), folder / "model_head.pkl", compress=3)
    with pytest.raises(BundleError, match="not a pickle that can be read as data"):
        import_setfit(folder, tmp_path / "out")


def nested_label() -> Any:
    """A tuple of two tuples of two tuples, and so on: small in a pickle, endless to print or to hash."""
    label: Any = "a"
    for _ in range(60):
        label = (label, label)
    return label


def test_values_that_no_training_gives_a_head_are_refused(encoder: Path, tmp_path: Path) -> None:
    labels, intercept = np.empty(2, object), np.empty(1, object)
    labels[0], labels[1], intercept[0] = nested_label(), "b", 10**400
    folder, of_labels, of_intercept = body(tmp_path / "model", encoder), regression(), regression()
    of_labels.classes_, of_intercept.intercept_ = labels, intercept
    key = b"}" + pickle.dumps(nested_label(), protocol=4)[2:-1] + b"K\x01s."
    for content, message in (
        (pickle.dumps(of_labels, protocol=4), "neither names nor numbers"),
        (pickle.dumps(of_intercept, protocol=4), "too large to convert"),
        (key, "tuples for keys"),
    ):
        (folder / "model_head.pkl").write_bytes(content)
        with pytest.raises(BundleError, match=message):
            import_setfit(folder, tmp_path / "out")


def test_dense_layer_that_does_not_fit_is_refused(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = body(tmp_path / "model", encoder, "mean", "Dense:Identity")
    joblib.dump(regression(), folder / "model_head.pkl")
    weights = folder / "2_Dense" / "model.safetensors"
    for shape in ((16, 32), (16,)):
        save_file({"linear.weight": torch.zeros(shape), "linear.bias": torch.zeros(16)}, weights)
        with pytest.raises(BundleError, match="layers do not fit each other"):
            import_setfit(folder, tmp_path / "out")
    weights.write_bytes(weights.read_bytes().replace(b'"F32"', b'"Q32"'))
    with pytest.raises(BundleError, match="no linear layer of float32"):
        import_setfit(folder, tmp_path / "out")


def test_dense_layer_in_a_folder_called_encoder_is_imported(encoder: Path, tmp_path: Path) -> None:
    folder = body(tmp_path / "model", encoder, "mean", "Dense:Tanh")
    joblib.dump(regression(), folder / "model_head.pkl")
    expected = answers(folder, tmp_path / "expected")
    (folder / "2_Dense").rename(folder / "encoder")
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("2_Dense", "encoder"))
    assert np.array_equal(answers(folder, tmp_path / "out"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("1_Pooling/config.json", pooling_mode_cls_token=True), "pools by"),
        (edit("1_Pooling/config.json", pooling_mode="weightedmean"), "pools by"),
        (edit("config_setfit.json", labels=["a", "b", "c"]), None),
        (edit("config_setfit.json", labels=["a"]), "names 1 labels"),
        (edit("sentence_bert_config.json", do_lower_case=True), None),
        (edit("sentence_bert_config.json", custom={"a": 1}), "settings that are not known: custom"),
        (edit("tokenizer.json", normalizer=None), None),
    ],
)
def test_settings_of_the_body_are_obeyed_or_refused(
    change: Callable[[Path], Any], message: str | None, encoder: Path, tmp_path: Path
) -> None:
    folder = body(tmp_path / "model", encoder)
    joblib.dump(regression(), folder / "model_head.pkl")
    change(folder)
    if message is None:
        import_setfit(folder, tmp_path / "out")
        return
    with pytest.raises(BundleError, match=message):
        import_setfit(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("Transformer", ""), ("WordWeights", "1_W")], "a pipeline that a bundle cannot hold"),
        ([("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3")], "cannot hold"),
        ([("Transformer", ".."), ("Pooling", "1_Pooling")], "does not have"),
    ],
)
def test_pipelines_that_a_bundle_cannot_hold_are_refused(
    modules: Any, message: str, encoder: Path, tmp_path: Path
) -> None:
    folder = body(tmp_path / "model", encoder)
    joblib.dump(regression(), folder / "model_head.pkl")
    write_json(folder / "modules.json", [{"type": MODULES + kind, "path": at} for kind, at in modules])
    with pytest.raises(BundleError, match=message):
        import_setfit(folder, tmp_path / "out")


def test_prompt_before_every_text_is_refused(encoder: Path, tmp_path: Path) -> None:
    folder = body(tmp_path / "model", encoder)
    joblib.dump(regression(), folder / "model_head.pkl")
    for prompts in ({"query": "query: "}, ["query"]):
        stored = {"default_prompt_name": "query", "prompts": prompts}
        write_json(folder / "config_sentence_transformers.json", stored)
        with pytest.raises(BundleError, match="puts the prompt 'query' before every text"):
            import_setfit(folder, tmp_path / "out")


def test_tokenizer_that_keeps_capitals_is_refused_where_the_body_lowers_them(encoder: Path, tmp_path: Path) -> None:
    folder = body(tmp_path / "model", encoder)
    joblib.dump(regression(), folder / "model_head.pkl")
    edit("sentence_bert_config.json", do_lower_case=True)(folder)
    edit("tokenizer.json", normalizer=None)(folder)
    with pytest.raises(BundleError, match="lower-cases texts before its tokenizer"):
        import_setfit(folder, tmp_path / "out")
