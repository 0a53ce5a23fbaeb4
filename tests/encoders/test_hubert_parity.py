"""The HuBERT-shaped network against Hugging Face's with equal random weights, every layer; and alone as in a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from carrara.encoders._base import Card
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hubert.network import HubertEncoder, HubertSettings
from carrara.formats.weights import load_state_dict_strict

SMALL = {
    "conv_channels": 24,
    "dim": 32,
    "num_layers": 3,
    "num_heads": 4,
    "ffn_dim": 48,
    "position_kernel": 16,
    "position_groups": 4,
}
CARD = Card(name="x", sample_rate=16000, frame_rate=50, num_layers=3, dim=32)


def encoder(**changes):
    return HubertEncoder(HubertSettings(**{**SMALL, **changes}), CARD).eval()


def twin(pre, norm, bias=False):
    """Return Hugging Face's model with weights drawn wide enough that every layer matters."""
    config = HubertConfig(
        vocab_size=4,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(24,) * 7,
        feat_extract_norm=norm,
        conv_bias=bias,
        do_stable_layer_norm=pre,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    model = HubertModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("norm", "bias"), [("group", False), ("layer", False), ("layer", True)])
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_every_layer_equals_hugging_face(placement, norm, bias, attention):
    model = twin(placement == "pre", norm, bias)
    relaxation = 32.0 if attention == "eager" else None
    ours = encoder(
        norm_placement=placement,
        conv_norm=norm,
        conv_bias=bias,
        final_norm=False,
        attention=attention,
        relaxation=relaxation,
    )
    load_state_dict_strict(ours, model.state_dict(), "transformers")
    x = noise(2, 5000)
    theirs = model(x, output_hidden_states=True)
    layers = ours(x)
    assert len(theirs.hidden_states) == layers.shape[1] == 4
    for i, row in enumerate(theirs.hidden_states):
        torch.testing.assert_close(layers[:, i], row, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours.forward_with_cnn(x)[1], model.feature_extractor(x).transpose(1, 2), atol=1e-5, rtol=1e-5
    )
    normed = encoder(norm_placement=placement, conv_norm=norm, conv_bias=bias)
    load_state_dict_strict(normed, model.state_dict(), "transformers")
    torch.testing.assert_close(normed(x)[:, -1], theirs.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_padding_original_equals_hugging_face_with_its_attention_mask(placement, norm):
    model = twin(placement == "pre", norm)
    ours = encoder(norm_placement=placement, conv_norm=norm, final_norm=False, padding="original")
    load_state_dict_strict(ours, model.state_dict(), "transformers")
    lengths = torch.tensor([5000, 2300])
    x = noise(2, 5000).masked_fill(torch.arange(5000) >= lengths[:, None], 0)
    mask = (torch.arange(5000) < lengths[:, None]).long()
    theirs = model(x, attention_mask=mask, output_hidden_states=True).hidden_states
    for i, row in enumerate(theirs):
        for clip, frames in enumerate(ours.frame_lengths(lengths)):
            torch.testing.assert_close(ours(x, lengths)[clip, i, :frames], row[clip, :frames], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_masked_frames_equal_hugging_faces():
    model = twin(False, "group")
    ours = encoder()
    load_state_dict_strict(ours, model.state_dict(), "transformers")
    x = noise(2, 5000)
    mask = torch.rand(2, ours.num_frames(5000), generator=torch.Generator().manual_seed(0)) < 0.5
    theirs = model(x, mask_time_indices=mask, output_hidden_states=True).hidden_states
    rows = ours.encode_frames(ours.conv_features(x), mask_BF=mask)
    for i, row in enumerate(theirs):
        torch.testing.assert_close(rows[:, i], row, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hubert-base", 94_371_712),
        ("mert-v0", 94_371_712),
        ("mert-v0-public", 94_371_712),
        ("mert-v1-95m", 94_371_712),
        ("mert-v1-330m", 315_428_992),
        ("music2vec-v1", 93_164_288),
        ("data2vec-audio-base", 93_164_288),
    ],
)
def test_parameters_are_those_of_the_published_models(name, parameters):
    with torch.device("meta"):
        assert build_encoder(name).card.parameters == parameters


def test_keys_are_hugging_faces():
    with torch.device("meta"):
        assert len(build_encoder("mert-v1-95m").state_dict()) == 211
        assert len(build_encoder("mert-v1-330m").state_dict()) == 403
        assert len(build_encoder("music2vec-v1").state_dict()) == 230


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 6000), min_size=2, max_size=4), st.sampled_from(["hubert", "data2vec"]), st.booleans())
@torch.no_grad()
def test_clips_of_unequal_length_have_the_same_features_as_alone(lengths, positions, pre):
    depth = 3 if positions == "data2vec" else 1
    ours = encoder(
        positions=positions,
        position_depth=depth,
        norm_placement="pre" if pre else "post",
        standardise=positions == "data2vec",
    )
    clips = [noise(length, seed=seed) for seed, length in enumerate(lengths)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    together, cnn = ours.forward_with_cnn(batch, torch.tensor(lengths))
    for row, features, clip in zip(together, cnn, clips):
        alone, frames = ours(clip[None])[0], ours.num_frames(len(clip))
        torch.testing.assert_close(row[:, :frames], alone, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(features[:frames], ours.forward_with_cnn(clip[None])[1][0], atol=2e-5, rtol=1e-4)
        assert not row[:, frames:].any() and not features[frames:].any()


@torch.no_grad()
def test_the_convolutional_features_need_no_second_pass_of_the_front_end():
    ours, passes = encoder(), []
    original = ours.feature_extractor.forward
    ours.feature_extractor.forward = lambda *inputs: passes.append(1) or original(*inputs)
    layers, _ = ours.forward_with_cnn(noise(4000)[None])
    assert passes == [1]
    torch.testing.assert_close(layers, ours(noise(4000)[None]))


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_the_gradient_of_the_front_end_is_scaled(factor):
    gradients = []
    for multiplier in (factor, 1.0):
        ours = encoder(conv_gradient=multiplier, layerdrop=0.0)
        ours(noise(1, 2000), gradients=True).square().sum().backward()
        gradients.append((ours.feature_extractor.conv_layers[3].conv.weight.grad, ours.masked_spec_embed.grad))
        assert ours.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0
    scaled, whole = gradients[0][0], gradients[1][0]
    if factor:
        torch.testing.assert_close(scaled, factor * whole, atol=1e-6, rtol=1e-3)
    else:
        assert scaled is None


def test_layerdrop_keeps_the_number_of_layers():
    ours = encoder(layerdrop=0.7).train()
    assert all(ours(noise(1, 2000)).shape[1] == 4 for _ in range(8))


def test_half_precision_runs_forward_and_backward():
    ours = encoder().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers = ours(noise(2, 5000), torch.tensor([5000, 3000]))
    layers.float().square().mean().backward()
    assert torch.isfinite(layers).all()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters() if p.grad is not None)


def test_weights_come_from_the_seed_alone_and_leave_the_global_generator_as_it_was():
    state = torch.get_rng_state()
    first, same, other = (HubertEncoder(HubertSettings(**SMALL), CARD, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not torch.equal(pairs[0][0], pairs[0][2])


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 30},
        {"deepnorm": True, "norm_placement": "pre"},
        {"relaxation": 32.0},
        {"conv_kernels": (10, 3)},
        {"position_depth": 2},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError):
        HubertSettings(**{**SMALL, **changes})


@pytest.mark.parametrize("name", ["mert-tiny", "musichubert-tiny", "music2vec-tiny"])
def test_features_do_not_depend_on_the_number_of_threads(name):
    """Bit for bit with two threads, which halve these shapes at whole vectors; with three, GELU's rests round."""
    encoder = build_encoder(name).eval()
    samples = 0.1 * torch.randn(3, 2 * encoder.card.sample_rate, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results.append(encoder(samples))
    assert torch.equal(results[1], results[0])
    torch.testing.assert_close(results[2], results[0], atol=2e-6 * float(results[0].abs().max()), rtol=0)
