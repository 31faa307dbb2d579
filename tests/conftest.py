"""Three rings of tests: fakes.py (no torch), a tiny random model through every real step, and the demo model."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache as cached
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported: no test may reach the network
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime themselves, before `inference`
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # two workers share the machine; a test that measures threads names their number
os.environ["GOMP_SPINCOUNT"] = "1000"  # threads of PyTorch that wait leave the cores to the other worker
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it in the background, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A slow example is no wrong one. All else stays as Hypothesis has it, here or in CI.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
gc.disable()  # until all tests are collected: what imports make is no garbage

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "assets" / "models" / "demo"
TINY_TASKS = {"mood": ["down", "up"], "topic": ["food", "other", "travel"]}


def tiny_base(folder: Path) -> dict[str, str]:
    """A random two-layer BERT with a letter-by-letter vocabulary in `folder`; returns its digests."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    from inference.formats.files import sha256

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{x}" for x in letters)]
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return {name: sha256(folder / name) for name in ("config.json", "model.safetensors", "tokenizer.json")}


def tiny_data() -> dict[str, object]:
    """Rows whose label a tiny model can learn: one keyword decides."""
    from inference.compare.rows import LabelledRows
    from training.data import TaskData

    draw = random.Random(1)
    keywords = {"down": "bad", "up": "fine", "food": "soup", "other": "lamp", "travel": "bus"}
    data = {}
    for task, labels in TINY_TASKS.items():
        rows = {part: LabelledRows([], {task: []}) for part in ("fit", "tuning")}
        for part, count in (("fit", 96), ("tuning", 24)):
            for i in range(count):
                filler = " ".join(draw.choice(["it", "was", "a", "so"]) for _ in range(draw.randint(0, 4)))
                rows[part].texts.append(f"{filler} {keywords[labels[i % len(labels)]]}".strip())
                rows[part].label_ids.append(i % len(labels))
        data[task] = TaskData(tuple(labels), rows["fit"], rows["tuning"])
    return data


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: compressed ones may differ at every import, and both workers must collect alike."""
    return argname if isinstance(val, bytes) else None


LONG = ("test_your_data.py", "test_training_methods.py")  # without slow tests, but of many that take a while


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a browser, and run files with slow tests first so that both workers end together.

    A browser takes seconds, and the fakes test the same rules without one: only `smoke` tests use it in `make test`.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if item.get_closest_marker("browser") and not item.get_closest_marker("smoke"):
            item.add_marker("slow")
    # A command of the docs takes up to a minute.
    docs, slow = ({item.path for item in items if item.get_closest_marker(name)} for name in ("docs", "slow"))
    items.sort(key=lambda item: (item.path not in docs, item.path not in slow, item.path.name not in LONG))


def pytest_collection_finish() -> None:
    """Leave what the imports made out of later garbage collections, each of which would walk through all of it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def once(run_folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that is made by the first test of the run that needs it, whatever its worker.

    Args:
        make: fills the folder, which does not exist yet.
    """
    folder, done = run_folder / name, run_folder / f"{name}.done"
    with FileLock(run_folder / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half-way
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def small_builds(run_folder: Path) -> Iterator[None]:
    """Build in this process on one thread, and into temporary folders with a tenth of the texts.

    The user's own cache still gets what users get: its keys do not depend on this.
    """
    from inference import cpu
    from inference.artifacts import build as building
    from inference.artifacts import cache, optional

    small: ContextVar[bool] = ContextVar("small", default=True)
    cores = cpu.cores

    def fewer(texts: Callable[[], list[str]]) -> Callable[[], list[str]]:
        return lambda: texts()[:: 10 if small.get() else 1]

    def build(bundle: Any, folder: Path, *rest: Any) -> Any:
        with sized(folder):
            return building.build(bundle, folder, *rest)

    def derive(bundle: Any, artifact: Any, backend: str, folder: Path, *rest: Any) -> Any:
        with sized(folder):
            return deriving(bundle, artifact, backend, folder, *rest)

    @contextmanager
    def sized(folder: Path) -> Iterator[None]:
        token = small.set(folder.resolve().is_relative_to(run_folder.resolve()))
        try:
            yield
        finally:
            small.reset(token)

    deriving = optional.derive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "cores", lambda: 1 if small.get() else cores())
        for module in (building, optional):
            patch.setattr(module, "showcase_texts", fewer(module.showcase_texts))
            patch.setattr(module, "calibration_texts", fewer(module.calibration_texts))
        patch.setattr(cache, "build", build)
        patch.setattr(cache, "derive", derive)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_scan_for_components() -> Iterator[None]:
    """Let Streamlit search the packages for components once: the search takes longer than the page of an `AppTest`."""
    if "streamlit.testing.v1" not in sys.modules:
        yield
        return
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cached(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session", autouse=True)
def figures_once() -> Iterator[None]:
    """Compute the figures that a receipt must have once for equal ones: most tests read one that others read too."""
    if "inference.compare.checking" not in sys.modules:
        yield
        return
    import made

    from inference.compare import checking

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "results", made.figures)
        yield


class Tiny:
    """A tiny bundle, its base and a cache folder with its built files. Tests that change any of them use a copy."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "tiny"
        self.base = root / "base"
        self.cache = root / "cache"

    def copy(self, root: Path) -> Tiny:
        copied = Tiny(root)
        for name in ("folder", "base", "cache"):
            shutil.copytree(getattr(self, name), getattr(copied, name))
        return copied


@pytest.fixture(scope="session")
def tiny(run_folder: Path, small_builds: None) -> Tiny:
    """A bundle trained for a few steps on a random base: every real step, in seconds."""
    return Tiny(once(run_folder, "tiny-model", make_tiny))


def make_tiny(root: Path) -> None:
    from tokenizers import Tokenizer

    from inference.artifacts.cache import obtain
    from inference.formats.bundle import Base, Bundle
    from training.loop import Settings, new_network, train
    from training.save import write_bundle

    made = Tiny(root)
    digests = tiny_base(made.base)
    data = tiny_data()
    settings = Settings(
        epochs=dict.fromkeys(data, 8.0), rank=4, batch_size=16, learning_rate=1e-2, max_tokens=16, precision="fp32"
    )
    network = new_network(made.base, data, settings)
    train(network, Tokenizer.from_file(str(made.base / "tokenizer.json")), data, settings, made.folder / ".checkpoint")
    write_bundle(
        network,
        made.folder,
        name="tiny",
        tasks=data,
        out_of_scope={"topic": "other"},
        base=Base("nobody/tiny-base", "0" * 40, digests),
        settings=settings,
        notes={"licence": "cc0-1.0", "datasets": [], "data": {}, "background": 0},
        base_folder=made.base,
    )
    obtain(Bundle.read(made.folder), made.cache, base=made.base)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one receipt, the only one that the dashboard sees."""
    from opened import one

    from dashboard import receipts
    from inference.compare.receipt import write_receipt

    write_receipt(one(), tmp_path / "good.json")
    monkeypatch.setattr(receipts, "RECORDED", tmp_path)
    monkeypatch.delenv("TRIPTYCH_RECEIPTS", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo model's folder; the test is skipped where its base model is not to be had."""
    from inference.errors import InferenceError
    from inference.formats.bundle import Bundle, locate_base

    bundle = Bundle.read(DEMO)
    try:
        locate_base(bundle.base, offline=True)
    except InferenceError as error:
        pytest.skip(f"the demo model's base is not here: {error}")
    bundle.base_folder()  # here, but of other bytes: that is no reason to skip
    return DEMO


@pytest.fixture(scope="session")
def demo_cache(demo: Path, run_folder: Path, small_builds: None) -> Iterator[Path]:
    """The cache with the demo model's artefacts: the user's own if they are there, else one of this run.

    Those of this run are the same bytes, but compared with PyTorch on a tenth of the texts. The programs that tests
    start find them too.
    """
    from inference.artifacts import build as building
    from inference.artifacts.cache import default_cache, find, obtain
    from inference.assets import calibration_texts
    from inference.errors import BundleError
    from inference.formats.bundle import Bundle

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building, "calibration_texts", calibration_texts)
            obtain(bundle, folder / "triptych")

    bundle = Bundle.read(demo)
    with contextlib.suppress(BundleError):  # a damaged one is of no use
        if find(bundle, default_cache()):
            yield default_cache()
            return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(once(run_folder, "demo-cache", make)))
        yield default_cache()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium. Not for the session: where it is open, a loop of events runs, and other tests start some."""
    from chromium import chromium

    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """A visit to the module's `address`, which must leave no complaint and ask no other machine."""
    from chromium import Visit

    opened = Visit(browser, address)
    yield opened
    errors = list(opened.errors)  # closing the page aborts the streams that are open, and it complains
    opened.page.close()
    assert errors == []
    assert opened.outside == []


@pytest.fixture(scope="session")
def static_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the static page, staged with the fake engine."""
    from static_site import PAGES, served, site_json, stage

    folder = tmp_path_factory.mktemp("static") / "site"
    stage(folder, site_json(), PAGES)
    with served(folder) as (url, _):
        yield url


@pytest.fixture
def page(browser: Any, static_address: str) -> Iterator[Any]:
    """The static page, open and ready to answer; it must leave no complaint and ask no other machine."""
    from static_site import Visiting

    with Visiting(browser) as opened:
        opened.goto(static_address)
        opened.locator("#why .words").wait_for()
        yield opened
