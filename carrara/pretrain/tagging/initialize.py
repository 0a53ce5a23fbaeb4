"""Initial weights of a tagger: random, DeiT's, PaSST's, or another tagger's [notes/encoders §1.2].

PaSST's tables of row and column positions are interpolated along their axis. DeiT's square grid of positions is
interpolated to rows by columns and then averaged over each axis; both interpolations are bicubic. DeiT's kernel over
red, green and blue is summed to one channel. Heads are dropped: of PaSST's the norm remains, of DeiT's nothing.

Letters: R rows, C columns, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import load
from carrara.encoders._maest.keys import FIRST_TWO, FREQUENCY, TIME, from_github, interpolate_positions
from carrara.encoders._maest.network import MaestEncoder
from carrara.formats.magic import is_pickle, read_magic
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.formats.weights import load_state_dict_strict, read_tensors
from carrara.nn.transformer.vit import NUM_PREFIX_TOKENS, VitShape
from carrara.pretrain.tagging.network import HEADS, Tagger
from carrara.pretrain.tagging.settings import InitialSettings

INITIAL_WEIGHTS = {
    "deit": "deit_base_distilled_patch16_384-d0272ac0.pth of facebookresearch/deit",
    "passt": "passt-s-f128-p16-s10-ap.476-swa.pt of kkoutini/PaSST's releases",
    "folder": "the folder of an encoder that was trained on tags",
}
TRAINED_ON = {"deit": "ImageNet", "passt": "AudioSet"}
POSITIONS, KERNEL = "pos_embed", "patch_embed.proj.weight"


def load_initial_weights(encoder: Tagger, settings: InitialSettings) -> None:
    """Load the initial weights into a network with random ones, and add their training data to its card.

    Raises:
        UsageError: no file is given, or it is of another kind or length.
        WeightsError: the file is incomplete or holds other weights.
    """
    if settings.kind == "random":
        return
    if not settings.weights:
        raise UsageError(
            f"initial weights of kind {settings.kind} come from a file: --set initial.weights=PATH "
            f"({INITIAL_WEIGHTS[settings.kind]})"
        )
    if settings.kind == "folder":
        _load_folder(encoder, settings)
        return
    if not isinstance(encoder, MaestEncoder):
        raise UsageError(f"initial weights of kind {settings.kind} are for MAEST; give --set initial.kind=random")
    path = Path(settings.weights).expanduser()
    convert = {"deit": _convert_deit, "passt": _convert_passt}[settings.kind]
    _load_except_heads(encoder, convert(_read_table(path), encoder.settings.shape, str(path)), str(path))
    trained_on = (TRAINED_ON[settings.kind], *encoder.card.trained_on)
    encoder.card = encoder.card.model_copy(update={"trained_on": trained_on})


def _convert_passt(tensors: Mapping[str, Tensor], shape: VitShape, source: str) -> dict[str, Tensor]:
    ours = {
        key: tensor for key, tensor in from_github(tensors).items() if not key.startswith(("head.1.", "head_dist."))
    }
    _check_keys(ours, (FREQUENCY, TIME), source, "PaSST")
    return interpolate_positions(ours, shape)


def _convert_deit(tensors: Mapping[str, Tensor], shape: VitShape, source: str) -> dict[str, Tensor]:
    _check_keys(tensors, (POSITIONS, KERNEL, "dist_token"), source, "a distilled DeiT")
    ours = {f"vit.{key}": tensor.float() for key, tensor in tensors.items() if not key.startswith(HEADS)}
    positions_1ND = ours.pop(f"vit.{POSITIONS}")
    side = round((positions_1ND.shape[1] - NUM_PREFIX_TOKENS) ** 0.5)
    if side**2 != positions_1ND.shape[1] - NUM_PREFIX_TOKENS:
        raise WeightsError(
            f"{source}: {positions_1ND.shape[1]} positions are not 2 and a square of patches; no distilled DeiT"
        )
    grid_1DRC = interpolate(
        positions_1ND[:, NUM_PREFIX_TOKENS:].mT.unflatten(2, (side, side)),
        (shape.rows, shape.columns),
        mode="bicubic",
        align_corners=False,
    )
    ours[FIRST_TWO] = positions_1ND[:, :NUM_PREFIX_TOKENS]
    ours[FREQUENCY], ours[TIME] = grid_1DRC.mean(3, keepdim=True), grid_1DRC.mean(2, keepdim=True)
    ours[f"vit.{KERNEL}"] = ours[f"vit.{KERNEL}"].sum(1, keepdim=True)
    return ours


def _load_folder(encoder: Tagger, settings: InitialSettings) -> None:
    source = load(settings.weights)
    if not isinstance(source, Tagger) or type(source) is not type(encoder):
        raise UsageError(f"{settings.weights}: is not of the kind that is trained ({type(encoder).__name__})")
    tensors = {key: tensor for key, tensor in source.state_dict().items() if not key.startswith(HEADS)}
    if isinstance(encoder, MaestEncoder) and TIME in tensors:
        theirs, ours = tensors[TIME].shape[-1], encoder.settings.shape.columns
        if theirs != ours and not settings.interpolate:
            raise UsageError(
                f"{settings.weights}: has positions for {theirs} columns of patches, this network for {ours}; train a "
                "recipe of that length, or interpolate them with --set initial.interpolate=true"
            )
        tensors = interpolate_positions(tensors, encoder.settings.shape)
    _load_except_heads(encoder, tensors, settings.weights)
    license = {"license": source.card.license, "commercial_use": source.card.commercial_use}
    trained_on = tuple(dict.fromkeys([*source.card.trained_on, *encoder.card.trained_on]))
    encoder.card = encoder.card.model_copy(update=license | {"trained_on": trained_on})


def _load_except_heads(encoder: Tagger, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load weights; only those of heads may be missing."""
    heads = {key: tensor for key, tensor in encoder.state_dict().items() if key.startswith(HEADS)}
    load_state_dict_strict(encoder, heads | dict(tensors), source)


def _check_keys(tensors: Mapping[str, Tensor], keys: Sequence[str], source: str, owner: str) -> None:
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise WeightsError(f"{source}: has no {missing[0].removeprefix('vit.')}, so it does not hold {owner}'s weights")


def _read_table(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors; in DeiT's official file they are under `model`."""
    if not is_pickle(read_magic(path)):
        return read_tensors(path)
    content = read_torch_checkpoint(path)
    table = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping) or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise WeightsError(f"{path}: holds no table of tensors, neither directly nor under `model`")
    return dict(table)
