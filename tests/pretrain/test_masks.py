"""Masking variants: shares, exchanged frames, silenced channels, schedules; the plain one is span_mask's."""

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.nn.transformer.masking import span_mask, span_masks
from carrara.pretrain.masks import at, view
from carrara.pretrain.recipes._base import MaskingSettings

PLAIN = MaskingSettings(mask_prob=0.8, mask_length=5)
DRAWS = [(7, 2, item) for item in range(200)]


def test_the_plain_view_hides_what_it_asks_for_and_nothing_else():
    seen = view(DRAWS[:3], PLAIN, 100, 16)
    expected = torch.stack([span_mask(100, 0.8, 5, 2, 7, 2, item) for item in range(3)])
    assert torch.equal(seen.asked_BF, expected)
    assert seen.hidden_BF is seen.asked_BF
    x = torch.randn(3, 102, 16)
    assert seen.spoil(x) is x


def test_shares_of_the_masked_frames_keep_their_content_or_take_anothers():
    seen = view(DRAWS, PLAIN.model_copy(update={"keep": 0.1, "other": 0.2}), 300, 16)
    assert torch.equal(seen.asked_BF, view(DRAWS, PLAIN, 300, 16).asked_BF)
    asked = seen.asked_BF.sum()
    own = torch.arange(300).expand(200, -1)
    other = seen.sources_BF != own
    assert not (other & seen.hidden_BF).any()
    assert not (other & ~seen.asked_BF).any()
    # One in 300 of the frames drawn elsewhere is the frame itself.
    assert (other.sum() / asked).item() == pytest.approx(0.2 * 299 / 300, abs=0.01)
    assert (seen.hidden_BF.sum() / asked).item() == pytest.approx(0.7, abs=0.01)


def test_spoiling_moves_contents_within_a_clip_and_silences_channels():
    settings = PLAIN.model_copy(update={"other": 0.5, "channels": 0.3, "channel_span": 4})
    seen = view(DRAWS[:2], settings, 30, 16)
    x = torch.randn(2, 31, 16, generator=torch.Generator().manual_seed(0))
    out = seen.spoil(x)
    for clip in range(2):
        for frame in range(31):
            source = int(seen.sources_BF[clip, frame]) if frame < 30 else 30
            expected = x[clip, source].clone()
            expected[seen.silent_BD[clip]] = 0
            assert torch.equal(out[clip, frame], expected)
    assert seen.silent_BD.any() and not seen.silent_BD.all()


def test_the_same_number_of_frames_is_asked_of_every_clip_on_request():
    seen = view(DRAWS[:16], PLAIN.model_copy(update={"same_masks": True}), 100, 16)
    assert torch.equal(seen.asked_BF, span_masks([100] * 16, 0.8, 5, 2, (7, 2), list(range(16)), same_masks=True))


def test_a_schedule_changes_probability_and_span_from_its_shares_on():
    settings = PLAIN.model_copy(update={"schedule": ((0.25, 0.5, 10), (0.5, 0.65, 3))})
    steps = [0.0, 0.24, 0.25, 0.49, 0.5, 1.0]
    found = [(at(settings, share).mask_prob, at(settings, share).mask_length) for share in steps]
    assert found == [(0.8, 5), (0.8, 5), (0.5, 10), (0.5, 10), (0.65, 3), (0.65, 3)]


@pytest.mark.parametrize("values", [{"keep": 0.6, "other": 0.6}, {"schedule": [[0.5, 0.8, 5], [0.2, 0.8, 5]]}])
def test_variants_that_cannot_be_are_refused(values):
    with pytest.raises(UsageError, match="masking"):
        parse_settings(MaskingSettings, values, "masking")
