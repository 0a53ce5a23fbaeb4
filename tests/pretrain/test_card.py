"""The model card says what training read, and the leaderboard marks it."""

import pytest
import yaml

import carrara
from carrara.core.settings import replace
from carrara.pretrain.card import identify_corpus
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
