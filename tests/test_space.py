"""Staging a Space: exactly the files it needs, problems reported before the Hub does, and a start from the folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import foreign
import pytest
from conftest import DEMO, ROOT, Tiny

from deploy.card import card_problems, front_matter
from deploy.staging import STAGED, lfs_problems, stage
from deploy.starting import check_staged
from deploy.uploading import upload
from inference import InferenceError, InputError
from inference.errors import BundleError
from inference.formats.bundle import Bundle

MODEL = "assets/models/demo"


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    stage(tmp_path / "space")
    return tmp_path / "space"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def own_model(folder: Path, extra: bytes = b"") -> Path:
    """A model of another name, with a file of its own that its digests cover."""
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("figures.json", "README.md"))
    described = json.loads((folder / "bundle.json").read_text())
    (folder / "extra.bin").write_bytes(extra)
    described |= {"name": "mine", "licence": None, "datasets": []}
    described["files"]["extra.bin"] = hashlib.sha256(extra).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(described))
    return folder


# --- What is staged


def test_gradio_space_gets_exactly_what_page_dashboard_and_api_need(tmp_path: Path) -> None:
    listed = stage(tmp_path / "space", "gradio")
    assert {*listed, STAGED} == files(tmp_path / "space")
    folders = {name.partition("/")[0] for name in listed}
    assert folders == {"app.py", "ui", "dashboard", "inference", "assets", "README.md", "requirements.txt", "LICENSE"}
    assert {name for name in listed if name.startswith("assets/")} == {
        "assets/calibration.txt",
        "assets/faithfulness.json",
        "assets/showcase.csv",
        *(f"{MODEL}/{name}" for name in files(DEMO)),
        *(f"assets/receipts/{name}" for name in files(ROOT / "assets/receipts")),
    }
    assert {Path(name).suffix for name in listed if name.startswith(("ui/", "inference/"))} == {
        ".py",
        ".css",
        ".html",
        ".js",
        ".json",
    }


def test_docker_space_calls_its_entry_serve_and_gets_a_dockerfile(tmp_path: Path) -> None:
    gradio, docker = (set(stage(tmp_path / kind, kind)) for kind in ("gradio", "docker"))
    assert docker - gradio == {"serve.py", "Dockerfile", ".dockerignore"}
    assert gradio - docker == {"app.py"}
    assert (tmp_path / "gradio/app.py").read_text() == (ROOT / "serve.py").read_text()


def test_gradio_space_gets_the_library_of_zerogpu_which_needs_torch_with_cuda(staged: Path, tmp_path: Path) -> None:
    ours = (ROOT / "requirements.txt").read_text()
    assert (staged / "requirements.txt").read_text() == ours + "spaces==0.51.3\n"
    assert front_matter(staged)["python_version"] == "3.12"
    stage(tmp_path / "docker", "docker")
    cpu = "--extra-index-url https://download.pytorch.org/whl/cpu\n"
    assert (tmp_path / "docker/requirements.txt").read_text() == cpu + ours


def test_staging_again_replaces_what_was_staged(tmp_path: Path) -> None:
    stage(tmp_path, "docker")
    (tmp_path / "ui/__pycache__").mkdir()
    (tmp_path / "ui/__pycache__/x.pyc").touch()  # it was started from there
    listed = stage(tmp_path, "gradio")
    assert files(tmp_path) == {*listed, STAGED}


def test_folder_with_other_files_is_refused_and_unchanged(staged: Path, tmp_path: Path) -> None:
    (staged / "notes.txt").write_text("mine")
    before = files(staged)
    with pytest.raises(InputError, match="holds notes.txt, which was not staged"):
        stage(staged)
    with pytest.raises(InputError, match="holds notes.txt"):
        stage(staged, "static", "no model")  # nothing is read or built first
    assert files(staged) == before
    (staged / "notes.txt").unlink()
    (staged / "linked").symlink_to(tmp_path)
    with pytest.raises(InputError, match="holds linked, which was not staged"):
        stage(staged)
    with pytest.raises(InputError, match="holds "):
        stage(ROOT / "ui")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        stage(tmp_path / "file")
    with pytest.raises(InputError, match="Unknown kind 'notebook'. Known: static, gradio, docker."):
        stage(tmp_path / "new", "notebook")


def test_link_out_of_the_model_folder_is_refused(tmp_path: Path) -> None:
    model = own_model(tmp_path / "mine")
    (model / "heads.safetensors").rename(tmp_path / "elsewhere")
    (model / "heads.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"heads.safetensors is a link to a place outside the model folder"):
        stage(tmp_path / "space", model=model)
    assert not (tmp_path / "space").exists()


def test_base_in_the_model_folder_is_staged(tmp_path: Path, tiny: Tiny) -> None:
    model = shutil.copytree(tiny.folder, tmp_path / "mine")
    described = json.loads((model / "bundle.json").read_text())
    shutil.copytree(tiny.base, model / "encoder")
    described["base"] = {"folder": "encoder", "files": described["base"]["files"]}
    (model / "bundle.json").write_text(json.dumps(described))
    listed = stage(tmp_path / "space", model=model)
    assert {f"assets/models/tiny/encoder/{name}" for name in described["base"]["files"]} <= set(listed)
    Bundle.read(tmp_path / "space/assets/models/tiny").base_folder()
    with (model / "encoder/tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleError, match="tokenizer.json has SHA-256"):
        stage(tmp_path / "other", model=model)


def test_base_out_of_reach_is_refused(tmp_path: Path) -> None:
    base = foreign.base(tmp_path / "base")
    model = foreign.adapter(tmp_path / "mine", base)  # it names its base by this machine's folder
    with pytest.raises(BundleError, match="no Hub id and lies outside of the model's folder"):
        stage(tmp_path / "space", model=model)
    assert not (tmp_path / "space").exists()
    described = json.loads((model / "adapter_config.json").read_text())
    (model / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": "nobody/base"}))
    stage(tmp_path / "space", model=model, base=base)  # the Space fetches it from the Hub
    data = front_matter(tmp_path / "space")
    assert data["models"] == ["nobody/base"]
    assert "None" not in (tmp_path / "space/README.md").read_text()


def test_base_with_other_bytes_than_on_the_hub_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(BundleError, match="nobody/tiny-base"):
        stage(tmp_path / "space", model=tiny.folder, base=foreign.base(tmp_path / "base"))
    assert stage(tmp_path / "space", model=tiny.folder, base=tiny.base)


def test_snapshot_in_the_hub_cache_is_staged(tmp_path: Path) -> None:
    source = foreign.classifier(tmp_path / "source")
    home = tmp_path / "models--nobody--mine"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for path in source.iterdir():
        path.rename(home / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    listed = stage(tmp_path / "space", model=snapshot)
    assert "assets/models/mine/model.safetensors" in listed
    assert not (tmp_path / "space/assets/models/mine/model.safetensors").is_symlink()


def test_file_above_10_mb_uses_lfs(tmp_path: Path) -> None:
    stage(tmp_path / "space", model=own_model(tmp_path / "mine", extra=bytes(10_000_001)))
    attributes = tmp_path / "space/.gitattributes"
    assert attributes.read_text() == '"assets/models/mine/extra.bin" filter=lfs diff=lfs merge=lfs -text\n'
    assert lfs_problems(tmp_path / "space") == []
    attributes.write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")  # as the Hub's own file has it
    assert lfs_problems(tmp_path / "space") == []
    attributes.write_text("*.onnx filter=lfs diff=lfs merge=lfs -text\n")
    with pytest.raises(InputError, match=r"extra.bin has 10 MB but no line `filter=lfs` in .gitattributes"):
        check_staged(tmp_path / "space")


# --- The front matter


@pytest.mark.parametrize("folder", ["project", "gradio", "docker"])
def test_front_matter_is_valid(tmp_path: Path, folder: str) -> None:
    if folder == "project":  # the repository itself can be pushed to a Gradio Space
        assert card_problems(ROOT) == []
        return
    stage(tmp_path, folder)
    assert card_problems(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("emoji: 🖼️\n", "", "`emoji` is missing"),
        ("sdk: gradio", "sdk: streamlit", "`sdk` is 'streamlit', not one of static, gradio, docker"),
        ("sdk_version: 6.31.0", "sdk_version: 5.0.0", "`sdk_version` is '5.0.0', not what requirements.txt pins"),
        ("python_version: '3.12'", "python_version: 3.12", "`python_version` is 3.12, not a version in quotes"),
        ("app_file: app.py", "app_file: main.py", "`app_file` is 'main.py', which does not exist"),
        ("colorTo: green", "colorTo: teal", "`colorTo` is 'teal', not one of red"),
        ("short_description: ", "short_description: at great length, ", "longer than 60 characters"),
        ("- stanfordnlp/sst2", "- sst2 of Stanford", "`datasets` is"),
        ("title: Triptych", "title: [", "no readable front matter"),
        ("---\n", "", "`title` is missing"),
    ],
)
def test_invalid_front_matter_is_reported_before_the_start(staged: Path, old: str, new: str, message: str) -> None:
    card = staged / "README.md"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=re.escape(message)):
        check_staged(staged)


# --- It starts


@pytest.mark.slow
def test_missing_file_is_noticed_by_starting_the_space(staged: Path) -> None:
    (staged / "ui/start.py").unlink()
    with pytest.raises(InputError, match=r"app.py does not start in .*No module named 'ui.start'"):
        check_staged(staged)


@pytest.mark.slow
def test_space_with_another_model_serves_that_model(tmp_path: Path, demo: Path, demo_cache: Path) -> None:
    folder = tmp_path / "space"
    stage(folder, "gradio", own_model(tmp_path / "mine"))
    data = front_matter(folder)
    assert (data["title"], data["models"]) == ("mine", ["sentence-transformers/all-MiniLM-L6-v2"])
    assert not {"license", "datasets"} & set(data)  # those are the demo model's
    code = "from ui.start import *; print(Models.of_folder(ServerSettings.read({}).model).bundle.name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker", "gradio"])
def test_staged_space_starts_from_its_folder(tmp_path: Path, demo: Path, demo_cache: Path, kind: str) -> None:
    stage(tmp_path, kind)
    check_staged(tmp_path)
    assert "__pycache__" not in {path.name for path in tmp_path.rglob("*")}


def test_dockerfile_matches_the_staged_files(tmp_path: Path, demo: Path, demo_cache: Path) -> None:
    listed = stage(tmp_path, "docker")
    text = re.sub(r"\\\n", " ", (tmp_path / "Dockerfile").read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    last = dict(steps)
    variables = dict(re.findall(r"(\w+)=(\S+)", last["ENV"]))
    assert last["FROM"] == "python:3.11-slim"
    assert last["USER"] == "1000"
    assert "--uid 1000" in text
    assert (variables["PORT"], last["EXPOSE"], front_matter(tmp_path)["app_port"]) == ("7860", "7860", 7860)
    assert variables["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert variables["XDG_CACHE_HOME"].startswith(variables["HOME"])
    assert json.loads(last["CMD"]) == ["python", "serve.py"]  # as a list: no shell stands between it and SIGTERM
    assert json.loads(last["HEALTHCHECK"].partition("CMD ")[2])[:2] == ["python", "-c"]
    assert [what for step, what in steps if step == "COPY"] == [
        "requirements.txt ./",
        "--from=libraries /venv /venv",  # and nothing else of the stage that has pip and compilers
        "--chown=1000:1000 . ./",
    ]
    # What the image is built with works in the folder. (Here the files are in the cache; making them takes a minute.)
    assert steps[-4] == ["RUN", "python -m inference build"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "inference", "build"],
        cwd=tmp_path,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {*listed, STAGED}


# --- Uploading


class Hub(ThreadingHTTPServer):
    """As much of the Hub as an upload needs. It holds one old file, and remembers what it was asked and sent."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = status
        self.asked: list[str] = []
        self.sdk = ""
        self.tokens: set[str | None] = set()
        self.commit: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        answer: Any = {}
        if path == "/api/repos/create":
            self.server.sdk = json.loads(body)["sdk"]
            answer = {"url": f"{self.server.url}/spaces/me/demo"}
        elif "/tree/" in path:
            answer = [{"type": "file", "path": "old.py", "size": 3, "oid": "0" * 40}]
        elif "/preupload/" in path:
            answer = {
                "files": [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
            }
        elif "/commit/" in path:
            self.server.commit += [json.loads(line) for line in body.splitlines()]
            answer = {"commitUrl": f"{self.server.url}/spaces/me/demo/commit/{'0' * 40}", "commitOid": "0" * 40}
        data = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def uploaded(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """What `upload` does in a process of its own: the address of the Hub is read when its library is imported."""
    code = f"from deploy.uploading import upload; print(upload({str(folder)!r}, 'me/demo', 'hf_secret'))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder.parent / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_upload_replaces_the_contents_of_the_space(tmp_path: Path, hub: Hub) -> None:
    listed = stage(tmp_path / "space", "docker")
    done = uploaded(tmp_path / "space", hub.url)
    assert done.stdout == f"{hub.url}/spaces/me/demo\n", done.stderr
    assert hub.asked[0] == "POST /api/repos/create"
    assert hub.sdk == "docker"
    commit = "POST /api/spaces/me/demo/commit/main"
    assert (hub.asked[-1], hub.asked.count(commit)) == (commit, 1)  # the Hub builds a Space after each
    assert "POST /api/spaces/me/demo/preupload/main" in hub.asked
    sent = {
        line["key"]: {one["value"].get("path") for one in hub.commit if one["key"] == line["key"]}
        for line in hub.commit
    }
    assert sent["file"] == set(listed)
    assert sent["deletedFile"] == {"old.py"}
    assert hub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in done.stdout + done.stderr


def test_refused_upload_is_an_error_without_the_token(staged: Path, hub: Hub) -> None:
    hub.status = 401
    done = uploaded(staged, hub.url)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("inference.errors.InferenceError: The Hub refused me/demo")
    assert "hf_secret" not in done.stdout + done.stderr


def test_unreachable_hub_is_an_error_with_a_remedy(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InferenceError, match="Cannot upload me/demo .*try again"):  # the tests are offline
        upload(staged, "me/demo", "hf_secret")


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        *(
            (name, "hf_secret", "not the id of a Space. Pass OWNER/NAME")
            for name in ("demo", "../..", "me/a--b", "me/-")
        ),
        ("me/demo", "hf_secret\nx", "contains invalid characters"),
    ],
)
def test_malformed_id_or_token_is_refused_before_the_upload(
    staged: Path, repo_id: str, token: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        upload(staged, repo_id, token)
    assert "hf_secret" not in str(raised.value)


def test_models_and_datasets_of_the_card_may_have_no_owner(staged: Path) -> None:
    card = staged / "README.md"
    card.write_text(card.read_text().replace("- stanfordnlp/sst2", "- imdb"))
    assert card_problems(staged) == []


def test_folder_that_was_not_staged_is_not_uploaded() -> None:
    with pytest.raises(InputError, match="was not staged"):
        upload(ROOT, "me/demo", "hf_secret")
