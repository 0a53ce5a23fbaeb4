"""CLaMP 3: a Transformer over MERT's features of a recording, and XLM-R, in one space; texts in a hundred languages.

[wu2025clamp3]. 24 kHz; a recording's samples are scaled to mean 0 and variance 1, cut into windows of 5 s (a last one
under 1 s is dropped), and each gives the mean over MERT-v1-95M's frames and over its 13 rows. A vector of zeros, these
vectors and another of zeros go through BERT in segments of 128 (the last one moved back so that it ends with them).
Layer 0 is the input to BERT's layer 1, layer i the output of layer i, one vector for each 5 s. The joint space: the
mean over a segment's vectors, those of the zeros included, projected to 768 numbers, and the mean over segments
weighted by their new vectors. A text is the mean over XLM-R's tokens, projected; texts beyond 128 tokens are cut, where
the authors average segments.

The file is the authors' `weights_clamp3_saas_….pth` of huggingface.co/sander-wood/clamp3 (MIT), a training checkpoint;
its half for scores and MIDI is not read. MERT-v1-95M is another file, CC BY-NC 4.0, so the whole is not for commercial
use; it is that of `carrara import mert-v1-95m`. The vocabulary is XLM-R's.

Letters: B batch, T samples, W windows of 5 s, S segments, N texts, F tokens, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hubert.network import HubertSettings
from carrara.encoders._text.tower import TextEncoder, XlmRobertaSettings
from carrara.encoders._windows import split_clips
from carrara.encoders.mert import ENCODER as MERT
from carrara.encoders.mert import MertSettings
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.nn.conv.waveform_frontend import standardize_waveform
from carrara.nn.init import init_weights
from carrara.nn.transformer.bert import Bert, BertShape, init_normal

VARIANTS = {"clamp3": "CLaMP 3, 458M, 24 kHz: a Transformer over MERT's features and a text tower (XLM-R) in one space"}
FILES = {
    "clamp3": {
        "sander-wood/clamp3/weights_clamp3_saas_h_size_768_t_model_FacebookAI_xlm-roberta-base_t_length_128_a_size_768_"
        "a_layers_12_a_length_128_s_size_768_s_layers_12_p_size_64_p_length_512.pth": "",
        "m-a-p/MERT-v1-95M/pytorch_model.bin": "",
        "FacebookAI/xlm-roberta-base/tokenizer.json": "",
    }
}
SAMPLE_RATE = 24_000
_WINDOW, _MIN_WINDOW = 5 * SAMPLE_RATE, SAMPLE_RATE
_SEGMENT = 128  # vectors
_BATCH_SIZE = 8  # windows
_MERT = "mert-v1-95m"
_UNUSED = re.compile(r"^(symbolic_\w+\.|(text|audio)_model\.(pooler\.|embeddings\.\w+_ids$))")


class Clamp3Settings(XlmRobertaSettings):
    """Settings of a CLaMP 3; the defaults are the published ones.

    Attributes:
        mert: of the MERT, which takes its windows as they are.
        num_layers, num_heads, ffn_dim: of the Transformer over its features, which is as wide as MERT.
        joint_dim: size of the joint space.
    """

    mert: MertSettings = Field(default_factory=lambda: _mert_settings())
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    joint_dim: int = Field(default=768, ge=1)


def _mert_settings() -> MertSettings:
    settings = MERT.variants[_MERT][1]
    assert isinstance(settings, MertSettings)
    return settings.model_copy(update={"standardise": False})


class Clamp3Encoder(TextEncoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: Clamp3Settings
    pad_token = 1

    def __init__(self, settings: Clamp3Settings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.max_tokens = settings, min(128, settings.positions - 2)
        dim = settings.mert.dim
        self.mert = MERT.build(settings.mert, MERT.variants[_MERT][0], seed)
        bert = BertShape(settings.num_layers, dim, settings.num_heads, settings.ffn_dim, 1, _SEGMENT, types=2)
        with torch.device("meta"):
            self.audio_model = Bert(bert, has_pooler=False)
            self.audio_proj = nn.Linear(dim, settings.joint_dim)
            self.text_model = Bert(settings.text_shape(), has_pooler=False)
            self.text_proj = nn.Linear(settings.text_dim, settings.joint_dim)
        for part in (self.audio_model, self.audio_proj, self.text_model, self.text_proj):
            init_weights(part, partial(init_normal, part), seed)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = _update_card(card, settings).model_copy(update={"parameters": parameters})

    def num_frames(self, samples: int) -> int:
        """Return the number of windows of 5 s; a last one under 1 s counts only where it is the first."""
        whole, rest = divmod(samples, _WINDOW)
        return max(whole + (rest >= _MIN_WINDOW), 1)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return BERT's layers, a vector for each 5 s, `[batch, layers + 1, windows, dim]`; zero after a clip's own."""
        clips = []
        for samples_T in split_clips(samples_BT, lengths_B):
            segments = self._run_segments(self.embed_windows(samples_T))
            layers_LWD = torch.cat([layers_LFD[:, -new:] for layers_LFD, new in segments], dim=1)
            clips.append(layers_LWD[:, 1:-1].transpose(0, 1))
        layers_BWLD = pad_sequence(clips, batch_first=True)
        missing = self.num_frames(samples_BT.shape[1]) - layers_BWLD.shape[1]
        return functional.pad(layers_BWLD, (0, 0, 0, 0, 0, max(missing, 0))).transpose(1, 2)

    @torch.no_grad()
    def encode_audio_joint(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return each clip's unit vector in the space of `encode_text`, `[batch, dim]`."""
        vectors = []
        for samples_T in split_clips(samples_BT, lengths_B):
            segments = self._run_segments(self.embed_windows(samples_T))
            joint_SD = torch.stack([self.audio_proj(layers_LFD[-1].mean(dim=0)) for layers_LFD, _ in segments])
            weight_S = torch.tensor([float(new) for _, new in segments], device=joint_SD.device)
            vectors.append(weight_S @ joint_SD.float())
        return functional.normalize(torch.stack(vectors), dim=-1)

    def embed_windows(self, samples_T: Tensor) -> Tensor:
        """Return MERT's mean over frames and rows of each window of 5 s, `[windows, dim]`."""
        standard_T = standardize_waveform(samples_T[None])[0]
        windows = list(standard_T.split(_WINDOW))[: self.num_frames(len(samples_T))]
        means = []
        for start in range(0, len(windows), _BATCH_SIZE):
            batch = windows[start : start + _BATCH_SIZE]
            lengths_W = torch.tensor([len(window_T) for window_T in batch], device=samples_T.device)
            layers_WLFD = self.mert.forward(pad_sequence(batch, batch_first=True), lengths_W)
            frames_W = [self.mert.num_frames(len(window_T)) for window_T in batch]
            means += [layers_LFD[:, :frames].mean(dim=(0, 1)) for layers_LFD, frames in zip(layers_WLFD, frames_W)]
        return torch.stack(means).float()

    def _run_segments(self, windows_WD: Tensor) -> list[tuple[Tensor, int]]:
        """Return each segment's layers `[layers + 1, vectors, dim]`, and how many of its last vectors are new."""
        vectors_FD = functional.pad(windows_WD, (0, 0, 1, 1))
        total = len(vectors_FD)
        segments = []
        for start in range(0, total, _SEGMENT):
            new = min(_SEGMENT, total - start)
            own_FD = vectors_FD[max(start + new - _SEGMENT, 0) : start + new]
            x_BFD = self.audio_model.embeddings(None, own_FD[None])
            valid_BF = torch.ones(1, len(own_FD), dtype=torch.bool, device=own_FD.device)
            layers = [x_BFD]
            for layer in self.audio_model.encoder["layer"].children():
                layers.append(layer(layers[-1], valid_BF))
            segments.append((torch.cat(layers), new))
        return segments

    def forward_text(self, tokens_NF: Tensor, valid_NF: Tensor) -> Tensor:
        """Return the projection of the mean over each text's own tokens, `[texts, dim]`."""
        x_NFD = self.text_model(tokens_NF, valid_NF).masked_fill(~valid_NF[..., None], 0)
        return self.text_proj(x_NFD.sum(dim=1) / valid_NF.sum(dim=1, keepdim=True))


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of the authors' file, or of the folder that holds it, and of MERT, by the network's own names.

    Raises:
        UsageError: MERT-v1-95M is not here.
        WeightsError: no such file, or one that is damaged or no checkpoint of a CLaMP 3.
    """
    official = next(iter(FILES[name])).rpartition("/")[2]
    file = path / official if path.is_dir() else path
    content = read_torch_checkpoint(file)
    tensors = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{file}: is no checkpoint of a CLaMP 3, which has its tensors as `model`; fetch it again")
    from carrara.encoders._hub.load import load

    try:
        mert = load(_MERT)
    except UsageError as problem:
        raise UsageError(f"{name}: needs MERT-v1-95M too; run `carrara import {_MERT}` first ({problem})") from None
    if not isinstance(mert.settings, HubertSettings):
        raise WeightsError(f"{name}: what {_MERT} is here is no MERT; import it again")
    ours = {f"mert.{key}": tensor for key, tensor in mert.state_dict().items()}
    return ours | {key: tensor.float() for key, tensor in tensors.items() if not _UNUSED.match(key)}


def _update_card(card: Card, settings: Clamp3Settings) -> Card:
    network = f"MERT, {settings.num_layers} Transformer layers; XLM-R for texts"
    sizes = {"num_layers": settings.num_layers, "dim": settings.mert.dim, "joint_dim": settings.joint_dim}
    return card.model_copy(update={**sizes, "network": network})


_CARD = Card(
    name="clamp3",
    sample_rate=SAMPLE_RATE,
    frame_rate=SAMPLE_RATE / _WINDOW,
    num_layers=12,
    dim=768,
    window_seconds=600.0,
    parameters=458_162_560,
    license="MIT (its MERT-v1-95M: CC-BY-NC-4.0)",
    commercial_use=False,
    trained_on=("M4-RAG", "1,000 to 20,000 hours of music, not published; sources differ"),
    pretraining_task="contrastive learning of audio and text, over MERT",
    input="waveform",
    context_seconds=640.0,
    paper="Wu et al. 2025, CLaMP 3: Universal Music Information Retrieval Across Unaligned Modalities and Unseen "
    "Languages, https://arxiv.org/abs/2502.10362",
    benchmark_setup="its authors: windows of 5 s through MERT, up to 126 at once; mean over MERT's layers and frames, "
    "then over windows; samples of the whole recording standardised",
    files=FILES["clamp3"],
)
ENCODER = EncoderFamily(
    settings=Clamp3Settings,
    build=Clamp3Encoder,
    variants={"clamp3": (_update_card(_CARD, Clamp3Settings()), Clamp3Settings())},
    update_card=_update_card,
    load_official=_load_official,
)
