"""Every setting that a message, docstring or page about pre-training tells the reader to change exists."""

import ast
import re
import sys
from pathlib import Path

import pytest

from carrara.core.errors import UsageError
from carrara.core.settings import iter_paths, parse_assignments, replace
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "carrara" / "pretrain").rglob("*.py")), ROOT / "carrara" / "cli" / "pretrain.py"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = {name: resolve(name) for name in REGISTRY.names()}
PATHS = {path for recipe in RECIPES.values() for path in iter_paths(recipe.model_dump())}
GROUPS = sorted({path.partition(".")[0] for path in PATHS if "." in path})
# masking.mask_length, targets.NAME.weights; not objective.py, labels.csv or targets.{name}.
DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(GROUPS)})(?:\.[A-Za-z0-9_-]+)+(?![\w{{(/]|\.\w|\.{{)")
SET = re.compile(r"--set ([A-Za-z0-9_.-]+)(?:=([^\s`'\"),;]+))?")
ASSIGNMENT = re.compile(r"(?<![\w.{-])([a-z][a-z_]+)=(?=[\w{])")
FILES = (".py", ".csv", ".json", ".jsonl", ".md", ".int16", ".png", ".safetensors", ".wav", ".toml")


def texts(tree):
    """Return the string literals of a syntax tree; the values of f-strings are {}."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def exists(path):
    """Return whether some recipe has the setting; NAME in a path stands for any name."""
    if "NAME" not in path:
        return path in PATHS
    pattern = re.compile(re.escape(path).replace("NAME", r"[^.]+"))
    return any(pattern.fullmatch(known) for known in PATHS)


def proposed(text):
    paths = [path.rstrip(".") for path in DOTTED.findall(text) if not path.endswith(FILES)]
    return paths + [path for path, _ in SET.findall(text) if not path.endswith(".")]


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def test_settings_named_in_sources_and_pages_exist(trees):
    named = {(path.name, setting) for path, tree in trees.items() for text in texts(tree) for setting in proposed(text)}
    named |= {
        (path.name, setting.rstrip(".")) for path in PAGES for setting in DOTTED.findall(path.read_text())
        if not setting.endswith(FILES)
    }  # fmt: skip
    # The search finds something in each kind of place.
    assert {"optimiser.learning_rate", "masking.mask_length", "initial.weights"} <= {path for _, path in named}
    assert [each for each in sorted(named) if not exists(each[1])] == []


def test_assignments_in_messages_set_existing_settings(trees):
    raised = [text for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Raise)
              for text in texts(node)]  # fmt: skip
    names = {name for text in raised for name in ASSIGNMENT.findall(text)}
    assert {"fsdp", "precision"} <= names
    assert names <= {path.rpartition(".")[2] for path in PATHS}


def test_complete_assignments_are_accepted_by_some_recipe(trees):
    for tree in trees.values():
        for text in texts(tree):
            pairs = [(path, value) for path, value in SET.findall(text) if value and "{" not in value]
            changes = [f"{path}={value}" for path, value in pairs if "NAME" not in path]
            # A text may propose its assignments together or as alternatives.
            assert accepted(changes) or all(accepted([change]) for change in changes), (changes, text[:200])


def accepted(changes):
    """Return whether some recipe takes the assignments."""
    for recipe in RECIPES.values():
        try:
            replace(recipe, parse_assignments(changes))
        except UsageError:
            continue
        return True
    return False


def test_the_cure_of_a_missing_codec_trains_as_typed(corpus, tmp_path, monkeypatch):
    micro = {
        "network.conv_channels": 16, "network.dim": 32, "network.num_layers": 1, "network.num_heads": 2,
        "network.ffn_dim": 32, "network.position_groups": 4, "crop_seconds": 1.0, "batch": 4, "steps": 1,
        "targets.codes.fraction": 1.0, "targets.codes.num_codebooks": 2, "targets.codes.codebook_size": 8,
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="source encodec needs transformers") as refused:
        pretrain("mert-v1-95m", corpus, tmp_path / "x", changes=micro, device="cpu")
    (path, value) = SET.search(str(refused.value)).groups()
    assert pretrain("mert-v1-95m", corpus, tmp_path / "x", changes={**micro, path: value}, device="cpu")
    with pytest.raises(UsageError, match="source rvq-vae needs weights: --set targets.codes.weights=FOLDER"):
        resolve("mert-v1-95m", changes={path: "rvq-vae"})


# Proposals that this machine cannot provoke or take up.
ELSEWHERE = {
    "another rank is gone": "tests/pretrain/test_distributed.py kills a rank and resumes",
    "start anew with --set crop_seconds": "covered by the case of memory, with its number",
    "--device cpu": "needs a device that is not a CPU",
    "--corpus ~/Music": "the corpus is the user's",
    "source encodec needs transformers": "tests/pretrain/test_cures.py",
    "EnCodec cannot be read": "the weights are the user's",
    "labels.field=NAME": "the label is the user's, and the message lists those that there are",
    "no such tracker": "lists those that there are",
    "pip install 'carrara[": "installs a package",
    "--tracker none": "tests/pretrain/test_trackers.py",
    "make room and go on with --resume": "test_run.py, test_errors.py and test_refusals.py fill the disk and resume",
    "targets.codes.weights=facebook/encodec_24khz": "the weights are on the hub",
    "targets.NAME.encoder=ENCODER": "the encoder is the user's",
    "teacher.weights=FOLDER": "another test gives it one",
    "--corpus": "the corpus is the user's",
    "--from {path}: no file": "the folder is the user's",
    "is no network of the recipe's kind": "describes the encoder, which the recipe cannot take",
}


# Cures that are no flag: where they are tested, or why they cannot be typed.
WITHOUT_FLAG = {
    "remove": "test_cures_executed.py and test_refusals.py remove what the message names, and resume",
    "make room and start again": "the same command once more",
    "train one with `carrara pretrain rvq-vae`": "test_cures_executed.py does",
    "give the folder above both": "corpus/test_stream.py gives it",
    "make them before training": "for a program that reads labels itself",
    "add it, or seconds": "changes the user's manifest",
    "to make it a list": "renames a column of the user's",
    "give longer audio": "the corpus is the user's; where a crop can be shorter, test_cures_executed.py types the flag",
    "more files": "the corpus is the user's",
    "readable audio in it": "the corpus is the user's",
    "one of HuBERT's kind": "a recipe of the user's program: --set encoder does not fit the network's settings",
    "or mel-patch-tiny": "the same",
    "or cqt-mel-small": "the same",
    "or another MAEST": "the same",
    "leave it at 1": "takes an option away",
}
CURE = re.compile(
    r"(?:[;,:.] |\bor )(give|choose|take|use|leave|make|train|start|install|change|set|add|lower|raise|remove|inspect"
    r"|go on|continue|wait|pick|name|mask|Choose|Change)\b"
)
FLAG = re.compile(r"--[a-z]| -o")


def raised_texts():
    """Yield the texts of the errors that pre-training raises, values left out."""
    for path in [*sorted((ROOT / "carrara" / "pretrain").rglob("*.py")), ROOT / "carrara" / "cli" / "pretrain.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                strings = [each.value for each in ast.walk(node.exc) if isinstance(each, ast.Constant)]
                yield path.name, "".join(string for string in strings if isinstance(string, str))


def test_every_message_with_a_flag_is_provoked_by_a_test():
    tested = (Path(__file__).parent / "test_cures_executed.py").read_text()
    flagged = [
        (name, text) for name, text in raised_texts() if re.search(r"--(set|resume|yes|scale|device|tracker)\b", text)
    ]
    assert len(flagged) > 25
    fragments = re.findall(r'"([^"\n]{12,})"', tested)
    for name, text in flagged:
        known = any(fragment in text or piece_of(fragment, text) for fragment in fragments)
        assert known or any(words in text for words in ELSEWHERE), (name, text)


def test_a_cure_is_a_flag_or_it_is_known_why_it_is_none():
    texts = [text for _, text in raised_texts() if CURE.search(text) and not FLAG.search(text)]
    assert texts and not [text for text in texts if not any(words in text for words in WITHOUT_FLAG)]
    assert not [words for words in WITHOUT_FLAG if not any(words in text for text in texts)]


def piece_of(fragment, text):
    """Return whether a fragment with numbers in it is from the text, whose numbers are values left out."""
    parts = [part.strip() for part in re.split(r"\d[\d.e+]*", fragment) if len(part.strip()) > 8]
    return bool(parts) and all(part in text for part in parts)
