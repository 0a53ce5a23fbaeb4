"""The marker `needs_fixtures`: tests of official annotations, which are not distributed with this repository.

A browser for the tests with the marker `web`. Small tokenizers in the authors' formats: RoBERTa's byte pairs, and
XLM-R's unigrams.
"""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"


def pytest_configure():
    """Let what the tests start be interrupted; a shell makes commands in its background ignore that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Skip the tests that need the official annotations where these are absent."""
    if FIXTURES.is_dir():
        return
    skip = pytest.mark.skip(reason=f"needs official annotations, which are not in {FIXTURES}")
    for item in items:
        if item.get_closest_marker("needs_fixtures"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def any_width(monkeypatch):
    """Output of commands is as wide as it likes, whatever terminal the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def same_threads():
    """A test that changes the number of threads, as `embed --threads` does, changes it for itself only."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pebble_root(tmp_path_factory):
    """A Pebble of a few clips of each collection, in the layout of the real sizes, rendered once a session."""
    from carrara.data._pebble.suite import write

    root = tmp_path_factory.mktemp("pebble")
    few = {"songs": 60, "notes": 33, "voices": 40, "stems": 2, "unlabelled": 1}
    write(root, "demo", few | {"theory": 60, "pieces": 18, "covers": 24, "forms": 8}, processes=1)
    return root


@pytest.fixture(scope="session")
def fixtures_dir():
    """The folder of official annotations; for tests with the marker `needs_fixtures`."""
    return FIXTURES


@pytest.fixture(scope="session")
def tiny_pebble(tmp_path_factory):
    """The tiny Pebble, rendered once for all processes of a run of tests: read it, or copy it."""
    from carrara.core.io import file_lock
    from carrara.data._pebble.suite import write

    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "data" / "pebble" / "tiny"
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(root.with_suffix(".lock")):
        if not (root / "index.jsonl").exists():
            write(root, "tiny", processes=1)
    return root


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium or Chrome of this machine, else the one that `playwright install chromium` fetched."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    with sync_playwright() as playwright:
        executable = next(filter(None, map(shutil.which, names)), None) or playwright.chromium.executable_path
        if not Path(executable).is_file():
            pytest.skip("no Chromium on this machine; Debian's package chromium, or `playwright install chromium`")
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="session")
def roberta_json():
    """The content of a tokenizer.json as RoBERTa's, with some byte pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from carrara.encoders._text.tower import PROMPTS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer.to_str().encode()


@pytest.fixture(scope="session")
def xlmr_json():
    """The content of a tokenizer.json as XLM-R's, with some unigrams."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    from carrara.encoders._text.tower import PROMPTS

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str().encode()


TINY_CLAP = {
    "dim": 8,
    "depths": (1, 1),
    "heads": (1, 2),
    "joint_dim": 12,
    "text_dim": 16,
    "text_layers": 1,
    "text_heads": 2,
    "text_ffn_dim": 32,
    "vocabulary": 400,
    "positions": 40,
}


@pytest.fixture(scope="session")
def clap(roberta_json, tmp_path_factory):
    """A folder with a small LAION-CLAP with random weights, whose texts and sounds differ."""
    from carrara.encoders._hub.load import build_encoder, save_pretrained

    encoder = build_encoder("laion-clap-general", changes=TINY_CLAP)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            scale = 0.8 if "text" in name else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
            if "text" in name and name.endswith("bias"):
                parameter.zero_()  # what all texts share would make them similar
    encoder.tokenizer_json = roberta_json
    folder = tmp_path_factory.mktemp("clap") / "clap"
    save_pretrained(encoder, folder)
    return folder
