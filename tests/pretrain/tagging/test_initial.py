"""Initial weights from files shaped as DeiT's and PaSST's authors publish them, and from taggers of other lengths."""

import pytest
import torch
from torch.nn.functional import interpolate

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build, load, save_pretrained
from carrara.pretrain.tagging.initial import begin_from
from carrara.pretrain.tagging.settings import InitialSettings

WIDTH, LAYERS = 16, 2
SIZES = {"width": WIDTH, "layers": LAYERS, "num_heads": 2, "ffn_dim": 32}
TAGS = ("a", "b", "c")


def tagger(frames=625, seed=0, labels=TAGS):
    own = {**SIZES, "frames": frames, "labels": labels, "classes": len(labels)}
    return build("maest-tiny", seed, own)


def body(generator):
    """Return what DeiT and PaSST have in common, by their names, random throughout."""
    shapes = {"cls_token": (1, 1, WIDTH), "dist_token": (1, 1, WIDTH), "patch_embed.proj.bias": (WIDTH,)}
    for block in range(LAYERS):
        for name, shape in {
            "norm1": (WIDTH,), "norm2": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (32, WIDTH), "mlp.fc2": (WIDTH, 32),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def passt(tmp_path):
    generator = torch.Generator().manual_seed(1)
    tensors = body(generator) | {
        "new_pos_embed": torch.randn(1, 2, WIDTH, generator=generator),
        "freq_new_pos_embed": torch.randn(1, WIDTH, 12, 1, generator=generator),
        "time_new_pos_embed": torch.randn(1, WIDTH, 1, 99, generator=generator),
        "patch_embed.proj.weight": torch.randn(WIDTH, 1, 16, 16, generator=generator),
        "head.0.weight": torch.randn(WIDTH, generator=generator),
        "head.0.bias": torch.randn(WIDTH, generator=generator),
        "head.1.weight": torch.randn(527, WIDTH, generator=generator),
        "head.1.bias": torch.randn(527, generator=generator),
        "head_dist.weight": torch.randn(527, WIDTH, generator=generator),
        "head_dist.bias": torch.randn(527, generator=generator),
    }
    torch.save(tensors, tmp_path / "passt.pt")
    return tmp_path / "passt.pt", tensors


@pytest.fixture
def deit(tmp_path):
    generator = torch.Generator().manual_seed(2)
    tensors = body(generator) | {
        "pos_embed": torch.randn(1, 2 + 24 * 24, WIDTH, generator=generator),
        "patch_embed.proj.weight": torch.randn(WIDTH, 3, 16, 16, generator=generator),
        "head.weight": torch.randn(1000, WIDTH, generator=generator),
        "head.bias": torch.randn(1000, generator=generator),
        "head_dist.weight": torch.randn(1000, WIDTH, generator=generator),
        "head_dist.bias": torch.randn(1000, generator=generator),
    }
    torch.save({"model": tensors}, tmp_path / "deit.pth")
    return tmp_path / "deit.pth", tensors


@pytest.mark.parametrize(("frames", "columns"), [(312, 31), (625, 62), (1250, 125), (1875, 187)])
def test_passt_s_tables_are_stretched_and_its_classes_dropped(passt, frames, columns):
    path, theirs = passt
    encoder = tagger(frames)
    drawn = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    begin_from(encoder, InitialSettings(kind="passt", weights=str(path)), TAGS)
    ours = encoder.state_dict()
    for name, size in (("freq_new_pos_embed", (9, 1)), ("time_new_pos_embed", (1, columns))):
        wanted = interpolate(theirs.pop(name), size, mode="bicubic", align_corners=False)
        torch.testing.assert_close(ours[f"vit.{name}"], wanted)
    for name in ("head.1.weight", "head.1.bias", "head_dist.weight", "head_dist.bias"):
        assert torch.equal(ours[name], drawn[name])
        del theirs[name]
    for name, tensor in theirs.items():
        assert torch.equal(ours[name if name.startswith("head") else f"vit.{name}"], tensor)
    assert encoder.card.trained_on[0] == "AudioSet"


def test_a_table_of_the_same_length_stays_as_it_is(passt):
    path, theirs = passt
    encoder = tagger(990)
    begin_from(encoder, InitialSettings(kind="passt", weights=str(path)), TAGS)
    torch.testing.assert_close(encoder.vit.time_new_pos_embed.data, theirs["time_new_pos_embed"])


def test_deit_s_square_becomes_rows_and_columns_and_its_colours_one(deit):
    path, theirs = deit
    encoder = tagger(625)
    begin_from(encoder, InitialSettings(kind="deit", weights=str(path)), TAGS)
    # Token 2 + 24 y + x stands for the patch of row y, column x.
    grid = torch.empty(1, WIDTH, 24, 24)
    for y in range(24):
        for x in range(24):
            grid[0, :, y, x] = theirs["pos_embed"][0, 2 + 24 * y + x]
    grid = interpolate(grid, (9, 62), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder.vit.freq_new_pos_embed.data[..., 0], grid.sum(3) / 62)
    torch.testing.assert_close(encoder.vit.time_new_pos_embed.data[:, :, 0], grid.sum(2) / 9)
    torch.testing.assert_close(encoder.vit.new_pos_embed.data, theirs["pos_embed"][:, :2])
    red, green, blue = theirs["patch_embed.proj.weight"].unbind(1)
    torch.testing.assert_close(encoder.vit.patch_embed["proj"].weight.data[:, 0], red + green + blue)
    assert torch.equal(encoder.vit.blocks[1].mlp.fc2.weight, theirs["blocks.1.mlp.fc2.weight"])
    assert encoder.head[1].weight.shape == (3, WIDTH)


def test_files_of_another_kind_are_refused_by_name(passt, deit, tmp_path):
    def begin(**settings):
        begin_from(tagger(), InitialSettings(**settings), TAGS)

    with pytest.raises(UsageError, match="kind passt come from a file: --set initial.weights=PATH .passt-s-f128"):
        begin(kind="passt")
    with pytest.raises(WeightsError, match="deit.pth: has no freq_new_pos_embed, so it is not PaSST's"):
        begin(kind="passt", weights=str(deit[0]))
    with pytest.raises(WeightsError, match="passt.pt: has no pos_embed, so it is not a distilled DeiT's"):
        begin(kind="deit", weights=str(passt[0]))
    plain = {**deit[1], "pos_embed": torch.zeros(1, 1 + 24 * 24, WIDTH)}
    torch.save({"model": plain}, tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match="577 positions are not 2 and a square of patches"):
        begin(kind="deit", weights=str(tmp_path / "plain.pth"))
    with pytest.raises(WeightsError, match="of another shape"):
        wide = build("maest-tiny", 0, {**SIZES, "dim": 32})
        begin_from(wide, InitialSettings(kind="passt", weights=str(passt[0])), TAGS)
    with pytest.raises(WeightsError, match="no table of tensors"):
        torch.save([1, 2], tmp_path / "list.pth")
        begin(kind="deit", weights=str(tmp_path / "list.pth"))
    conv = build("effnet-discogs", 0, {"dim": 0.25, "styles": 3})
    with pytest.raises(UsageError, match="are a patch Transformer's"):
        begin_from(conv, InitialSettings(kind="passt", weights=str(passt[0])), TAGS)


def test_a_tagger_of_another_length_is_stretched_only_when_told(tmp_path):
    before = tagger(312, seed=5)
    save_pretrained(before, tmp_path / "five")
    settings = {"kind": "folder", "weights": str(tmp_path / "five")}
    with pytest.raises(UsageError, match="positions for 31 columns .* has 62; .* initial.interpolate=true"):
        begin_from(tagger(), InitialSettings(**settings), TAGS)
    ten = tagger()
    begin_from(ten, InitialSettings(**settings, interpolate=True), TAGS)
    wanted = interpolate(before.vit.time_new_pos_embed, (1, 62), mode="bicubic", align_corners=False)
    torch.testing.assert_close(ten.vit.time_new_pos_embed.data, wanted.data)
    assert torch.equal(ten.vit.blocks[0].attn.qkv.weight, before.vit.blocks[0].attn.qkv.weight)
    assert not torch.equal(ten.head[1].weight, before.head[1].weight)


def test_a_convolutional_networks_head_is_taken_with_its_tags(tmp_path):
    changes = {"dim": 0.1, "styles": 3, "labels": ("a", "b", "c")}
    before, after = (build("effnet-discogs", seed, changes) for seed in (1, 2))
    save_pretrained(before, tmp_path / "before")
    begin_from(after, InitialSettings(kind="folder", weights=str(tmp_path / "before"), head=True), ("a", "b", "c"))
    assert torch.equal(after.classifier.weight, before.classifier.weight)


def test_a_head_is_taken_only_with_the_same_tags(tmp_path):
    before = tagger(seed=5, labels=("a", "c", "d"))
    save_pretrained(before, tmp_path / "other")
    settings = {"kind": "folder", "weights": str(tmp_path / "other"), "head": True}
    with pytest.raises(UsageError, match=r"1 only in the corpus \(b\); 1 only there \(d\); train a new one"):
        begin_from(tagger(), InitialSettings(**settings), TAGS)
    same = tagger(labels=("a", "c", "d"))
    begin_from(same, InitialSettings(**settings), ("a", "c", "d"))
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(same.state_dict().values(), load(tmp_path / "other").state_dict().values())
    )
