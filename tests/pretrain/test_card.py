"""The model card says what training read, and the leaderboard marks it."""

import re
import shutil

import pytest
import torch
import yaml

import carrara
from carrara.core.settings import replace
from carrara.encoders._hub.load import save_pretrained
from carrara.pretrain.card import identify_corpus
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

SCORE = {"score": 0.5, "low": 0.25, "high": 0.75, "metric": "accuracy", "seconds": 0.1}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/GTZAN/genres_original", "/data/gtzan"], ("gtzan",)),
        (["hf://datasets/lab/nsynth/data", "/music/mine"], ("nsynth", "mine")),
        (["s3://bucket/MTG/{00..99}.tar"], ("mtg-jamendo",)),
        (["list.csv"], ("list.csv",)),
    ],
)
def test_a_corpus_is_known_by_its_folder(paths, names):
    assert identify_corpus(paths) == names


def test_the_card_has_data_licence_scores_and_recipe(micro, corpus, tmp_path):
    music = tmp_path / "nsynth"
    music.symlink_to(corpus)
    recipe = replace(micro, {"steps": 2, "checkpoint_every": 2})
    scores = iter((0.25, 0.5))

    def probe(encoder):
        return {"pebble/key": SCORE | {"score": next(scores)}}

    folder = pretrain(recipe, music, tmp_path / "run", device="cpu", probe=probe)
    assert carrara.load(folder).card.trained_on == ("nsynth",)
    text = (folder / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["library_name"] == "carrara" and metadata["trained_on"] == ["nsynth"]
    assert "Data: nsynth (CC BY 4.0 (Google Inc.))." in text
    (index,) = metadata["model-index"]
    (result,) = index["results"]
    assert index["name"] == "run" and result["dataset"]["name"] == "pebble/key (validation)"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.5}]
    assert "The probe at step 2" in text and '"mask_prob"' in text and "2 of 2 steps" in text


@pytest.fixture
def labelled(corpus, tmp_path):
    """The corpus with labels.csv: every second file has another tag."""
    folder = shutil.copytree(corpus, tmp_path / "labelled")
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.flac"))
    rows = [f"{path},{'valid' if index > 7 else 'train'},{'ab'[index % 2]}" for index, path in enumerate(paths)]
    (folder / "labels.csv").write_text("\n".join(["path,split,tags[]", *rows]) + "\n")
    return folder


@pytest.fixture
def run_snippet(monkeypatch):
    """(folder) → the names that the card's only block of Python defines, run as printed in the folder."""

    def run(folder):
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
        monkeypatch.chdir(folder)
        names = {}
        exec(compile(code, "README.md", "exec"), names)
        return names

    return run


@pytest.mark.parametrize("name", ["chroma-mfcc", "maest-tiny", "mel-patch-tiny", "mel-conformer-tiny", "mert-tiny"])
def test_the_snippet_of_a_saved_encoder_runs_as_printed(name, run_snippet, tmp_path):
    save_pretrained(carrara.load(f"{name}:random" if "tiny" in name else name), tmp_path / "saved")
    names = run_snippet(tmp_path / "saved")
    card = names["encoder"].card
    assert names["samples"].shape == (1, 5 * card.sample_rate) and names["layers"].shape[1] == card.num_layers + 1


@pytest.mark.slow
def test_the_snippets_of_trained_encoders_run_as_printed(micro, corpus, labelled, run_snippet, tmp_path):
    two = replace(micro, {"steps": 2})
    names = run_snippet(pretrain(two, corpus, tmp_path / "hubert", device="cpu"))
    assert names["layers"].shape[1] == two.network.num_layers + 1 and not torch.isnan(names["layers"]).any()
    small = {"network.dim": 32, "network.num_layers": 1, "network.num_heads": 2, "network.ffn_dim": 32, "batch": 2}
    patches = resolve("m2d", "tiny", {**small, "network.columns": 8, "crop_seconds": 1.28, "steps": 1})
    assert run_snippet(pretrain(patches, corpus, tmp_path / "m2d", device="cpu"))["layers"].shape[1] == 2
    clips = {"network.frames": 96, "crop_seconds": 1.536, "patchout": 3, "epochs": 1, "epoch_clips": 4}
    tagger = resolve("maest-5s", "tiny", small | clips)
    names = run_snippet(pretrain(tagger, labelled, tmp_path / "tagger", device="cpu"))
    assert names["probabilities"].shape == (1, 2)
