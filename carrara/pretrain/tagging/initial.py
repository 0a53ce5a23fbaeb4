"""Where a tagger's weights come from: drawn, or from DeiT's, PaSST's or another tagger's (encoders.md, section 1.2).

PaSST's tables of rows and columns are stretched along their own axis, DeiT's square grid of positions to rows by
columns and then averaged over the other axis, both by bicubic interpolation. DeiT's kernel over red, green and blue is
summed to one channel. A head of other classes is dropped: of PaSST's the norm stays, of DeiT's nothing.

Letters: R rows, C columns, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import load
from carrara.encoders._maest.keys import FIRST_TWO, FREQUENCY, TIME, native, resized
from carrara.encoders._maest.network import MaestEncoder
from carrara.formats.safe_pickle import read_checkpoint
from carrara.formats.weights import is_pickle, load_strictly, opening, read_tensors
from carrara.nn.transformer.vit import EXTRA, VitShape
from carrara.pretrain.tagging.network import HEADS, Tagger
from carrara.pretrain.tagging.settings import InitialSettings
from carrara.pretrain.tagging.tagged import see_same

OFFICIAL = {
    "deit": "deit_base_distilled_patch16_384-d0272ac0.pth of facebookresearch/deit",
    "passt": "passt-s-f128-p16-s10-ap.476-swa.pt of kkoutini/PaSST's releases",
    "folder": "the folder of an encoder that was trained on tags",
}
HEARD = {"deit": "ImageNet", "passt": "AudioSet"}
POSITIONS, KERNEL = "pos_embed", "patch_embed.proj.weight"


def begin_from(encoder: Tagger, settings: InitialSettings, names: Sequence[str]) -> None:
    """Put the initial weights into a network, and what they were taught on its card; new heads stay random.

    Args:
        encoder: the network, with random weights.
        settings: which weights.
        names: the tags to be learnt.

    Raises:
        UsageError: no file is given, or it is of another kind, length or other tags than asked for.
        WeightsError: the file is not whole or not such weights.
    """
    if settings.kind == "random":
        return
    if not settings.weights:
        raise UsageError(
            f"initial weights of kind {settings.kind} come from a file: --set initial.weights=PATH "
            f"({OFFICIAL[settings.kind]})"
        )
    if settings.kind == "folder":
        _from_folder(encoder, settings, names)
        return
    if not isinstance(encoder, MaestEncoder):
        raise UsageError(f"initial weights of kind {settings.kind} are a patch Transformer's; use initial.kind=random")
    path = Path(settings.weights).expanduser()
    read = {"deit": from_deit, "passt": from_passt}[settings.kind]
    _fill(encoder, read(_table(path), encoder.settings.shape, str(path)), str(path))
    encoder.card = encoder.card.model_copy(update={"trained_on": (HEARD[settings.kind], *encoder.card.trained_on)})


def from_passt(tensors: Mapping[str, Tensor], shape: VitShape, source: str) -> dict[str, Tensor]:
    """Return PaSST's weights by our names, its tables stretched to our rows and columns."""
    ours = {name: tensor for name, tensor in native(tensors).items() if not name.startswith(("head.1.", "head_dist."))}
    _see_there(ours, (FREQUENCY, TIME), source, "PaSST")
    return resized(ours, shape)


def from_deit(tensors: Mapping[str, Tensor], shape: VitShape, source: str) -> dict[str, Tensor]:
    """Return the weights of a distilled DeiT by our names, without its heads."""
    _see_there(tensors, (POSITIONS, KERNEL, "dist_token"), source, "a distilled DeiT")
    ours = {f"vit.{name}": tensor.float() for name, tensor in tensors.items() if not name.startswith(HEADS)}
    positions_1ND = ours.pop(f"vit.{POSITIONS}")
    side = round((positions_1ND.shape[1] - EXTRA) ** 0.5)
    if side**2 != positions_1ND.shape[1] - EXTRA:
        raise WeightsError(
            f"{source}: {positions_1ND.shape[1]} positions are not 2 and a square of patches; no distilled DeiT"
        )
    grid_1DRC = interpolate(
        positions_1ND[:, EXTRA:].mT.unflatten(2, (side, side)),
        (shape.rows, shape.columns),
        mode="bicubic",
        align_corners=False,
    )
    ours[FIRST_TWO] = positions_1ND[:, :EXTRA]
    ours[FREQUENCY], ours[TIME] = grid_1DRC.mean(3, keepdim=True), grid_1DRC.mean(2, keepdim=True)
    ours[f"vit.{KERNEL}"] = ours[f"vit.{KERNEL}"].sum(1, keepdim=True)
    return ours


def _from_folder(encoder: Tagger, settings: InitialSettings, names: Sequence[str]) -> None:
    before = load(settings.weights)
    if not isinstance(before, Tagger) or type(before) is not type(encoder):
        raise UsageError(f"{settings.weights}: is no network of the kind that is trained ({type(encoder).__name__})")
    ours = before.state_dict()
    if isinstance(encoder, MaestEncoder) and TIME in ours:
        places, columns = ours[TIME].shape[-1], encoder.settings.shape.columns
        if places != columns and not settings.interpolate:
            raise UsageError(
                f"{settings.weights}: has positions for {places} columns of patches where this network has {columns}; "
                "train a recipe of that length, or stretch them with --set initial.interpolate=true"
            )
        ours = resized(ours, encoder.settings.shape)
    if settings.head:
        see_same(
            names, before.settings.labels, f"the head of {settings.weights}", "train a new one: initial.head=false"
        )
    else:
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith(HEADS)}
    _fill(encoder, ours, settings.weights)
    known = {"license": before.card.license, "commercial_use": before.card.commercial_use}
    trained_on = tuple(dict.fromkeys([*before.card.trained_on, *encoder.card.trained_on]))
    encoder.card = encoder.card.model_copy(update=known | {"trained_on": trained_on})


def _fill(encoder: Tagger, ours: Mapping[str, Tensor], source: str) -> None:
    """Put the weights in; only heads may be missing."""
    heads = {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith(HEADS)}
    load_strictly(encoder, heads | dict(ours), source)


def _see_there(tensors: Mapping[str, Tensor], names: Sequence[str], source: str, what: str) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise WeightsError(f"{source}: has no {missing[0].removeprefix('vit.')}, so it is not {what}'s weights")


def _table(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors; DeiT's official file keeps them under `model`."""
    if not is_pickle(opening(path)):
        return read_tensors(path)
    content = read_checkpoint(path)
    table = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping) or not all(isinstance(tensor, Tensor) for tensor in table.values()):
        raise WeightsError(f"{path}: holds no table of tensors, neither plain nor under `model`")
    return dict(table)
