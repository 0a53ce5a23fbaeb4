"""Encoders with a text tower: texts and audio as unit vectors in one space, where a cosine says how well they match.

`encode_text` takes texts, `encode_audio_joint` samples. The text tower's vocabulary is the authors' tokenizer.json,
read by the library tokenizers (`carrara[text]`); it is kept as it is beside the weights.

Not every published text tower works: of one widely used file every text gets the same vector, 0.999 between "jazz
standard" and "heavy metal" [mteb-5069]. Its rankings look like results and mean nothing. So before a tower's first text
twenty fixed prompts are encoded, and it is refused unless their mean cosine is below 0.9.

Letters: B batch, T samples, N texts, F tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from carrara.core.download import download_from_hub
from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder
from carrara.nn.transformer.bert import BertShape

TOKENIZER = "tokenizer.json"
MAX_MEAN_COSINE = 0.9
PROMPTS = (
    "jazz standard",
    "heavy metal",
    "a solo classical piano, slow and sad",
    "fast techno with a hard kick drum",
    "a woman sings opera",
    "bluegrass banjo",
    "ambient drone without drums",
    "hip hop beat with a male rapper",
    "string quartet",
    "reggae",
    "acoustic guitar ballad",
    "Brazilian samba percussion",
    "a church choir",
    "distorted electric guitar solo",
    "happy children's song",
    "film music, tense and dark",
    "Indian sitar and tabla",
    "lo-fi beats to study to",
    "a brass band plays a march",
    "synth pop of the eighties",
)
_BATCH_SIZE = 64  # texts


class XlmRobertaSettings(Settings):
    """Sizes of an XLM-R as text tower; the defaults are those of xlm-roberta-base.

    Attributes:
        text_dim, text_layers, text_heads, text_ffn_dim: of its Transformer.
        vocabulary, positions: rows of its tables.
    """

    text_dim: int = Field(default=768, ge=1)
    text_layers: int = Field(default=12, ge=1)
    text_heads: int = Field(default=12, ge=1)
    text_ffn_dim: int = Field(default=3072, ge=1)
    vocabulary: int = Field(default=250_002, ge=3)
    positions: int = Field(default=514, ge=4)

    def text_shape(self) -> BertShape:
        """Return the shape of the network, whose positions begin at the row after the padding token's."""
        return BertShape(
            self.text_layers,
            self.text_dim,
            self.text_heads,
            self.text_ffn_dim,
            self.vocabulary,
            self.positions,
            first_position=2,
            eps=1e-5,
        )


class TextEncoder(Encoder):
    """Base of encoders with a text tower; a subclass also implements `encode_audio_joint` and `forward_text`.

    Attributes:
        tokenizer_json: Content of the authors' tokenizer.json; None without one, as in a network with random weights.
        max_tokens: Longest text that the tower takes; what is after it is left out.
        pad_token: Number of the token that fills up a batch.
    """

    tokenizer_json: bytes | None = None
    max_tokens: int
    pad_token: int
    _mean_cosine: float | None = None
    _tokenizer: Any = None

    def encode_audio_joint(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return each clip's unit vector in the space of `encode_text`, float32 `[batch, dim]`.

        Arguments as for `forward`; like there, a clip has the same vector in a batch as alone.
        """
        raise NotImplementedError(f"{self.card.name} has no joint space")

    def forward_text(self, tokens_NF: Tensor, valid_NF: Tensor) -> Tensor:
        """Return the text tower's vectors, `[texts, dim]`, of any length.

        Args:
            tokens_NF: Numbers of the tokens, with `pad_token` after a text's own.
            valid_NF: Which tokens are a text's own; the others have no influence.
        """
        raise NotImplementedError(f"{self.card.name} has no text tower")

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return the texts' unit vectors in the space of `encode_audio_joint`, float32 `[texts, dim]`.

        Raises:
            UsageError: The texts are no list of strings, the tower has no tokenizer.json, tokenizers is not installed,
                or the tower gives nearly the same vector for every text.
            WeightsError: The tokenizer.json is damaged or another tower's.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f'{self.card.name}: give a list of texts, such as ["slow piano"]')
        if self._mean_cosine is None:
            unit_ND = self._encode(PROMPTS)
            pairs = len(PROMPTS) * (len(PROMPTS) - 1)
            self._mean_cosine = float((unit_ND @ unit_ND.T).sum() - len(PROMPTS)) / pairs
        if not self._mean_cosine < MAX_MEAN_COSINE:
            raise UsageError(
                f"{self.card.name}: its text tower cannot be used: it gives nearly the same vector for every text "
                f"(mean cosine of {len(PROMPTS)} prompts {self._mean_cosine:.3f}, not below {MAX_MEAN_COSINE}); its "
                "audio embeddings can be; for texts take another encoder with a text tower, such as muq-mulan"
            )
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        batches = [torch.empty(0, self.card.joint_dim or 0, device=device)]
        for start in range(0, len(texts), _BATCH_SIZE):
            tokens = [torch.tensor(ids) for ids in self.tokenize(texts[start : start + _BATCH_SIZE])]
            tokens_NF = pad_sequence(tokens, batch_first=True, padding_value=self.pad_token)
            lengths_N = torch.tensor([len(own_F) for own_F in tokens])
            valid_NF = torch.arange(tokens_NF.shape[1]) < lengths_N[:, None]
            was_training = self.training
            self.eval()
            try:
                vectors_ND = self.forward_text(tokens_NF.to(device), valid_NF.to(device))
            finally:
                self.train(was_training)
            batches.append(functional.normalize(vectors_ND.float(), dim=-1))
        return torch.cat(batches)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of each text's tokens, special ones included, at most `max_tokens`.

        Raises:
            UsageError: There is no tokenizer.json, or tokenizers is not installed.
            WeightsError: The tokenizer.json is damaged or another tower's.
        """
        if self._tokenizer is None:
            if self.tokenizer_json is None:
                sources = [address for address in self.card.files if address.endswith(f"/{TOKENIZER}")]
                raise UsageError(
                    f"{self.card.name}: has no {TOKENIZER}, so it reads no text; put "
                    f"{sources[0] if sources else 'the one of its authors'} beside its weights"
                )
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise UsageError(
                    f"{self.card.name}: texts need the library tokenizers; run `pip install 'carrara[text]'`"
                ) from None
            try:
                self._tokenizer = Tokenizer.from_str(self.tokenizer_json.decode("utf-8"))
            except Exception as problem:  # tokenizers raises nothing narrower
                raise WeightsError(f"{self.card.name}: its {TOKENIZER} cannot be read ({problem})") from None
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.max_tokens)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


class JointAudio(Encoder):
    """The audio tower of an encoder with a text tower: one layer, one vector a clip, in the space of its texts."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, TextEncoder):
            raise UsageError(f"{encoder.card.name} has no text tower; take an encoder with one, such as muq-mulan")
        self.encoder, self.settings = encoder, encoder.settings
        sizes = {"num_layers": 0, "dim": encoder.card.joint_dim, "frame_rate": None, "cnn_dim": None}
        self.card = encoder.card.model_copy(update={"name": f"{encoder.card.name}:joint", **sizes})

    def hash_weights(self) -> str:
        """Return the hash of the encoder's weights."""
        return self.encoder.hash_weights()

    def num_frames(self, samples: int) -> int:
        """Return 1: a clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the unit vectors, `[batch, 1, 1, dim]`."""
        return self.encoder.encode_audio_joint(samples_BT, lengths_B)[:, None, None]


def read_tokenizer(card: Card, folder: Path) -> bytes | None:
    """Return the tokenizer.json of a folder, else of the hub as a card names it; None where neither is here."""
    file = folder / TOKENIZER
    if not file.is_file():
        for address in card.files:
            if address.endswith(f"/{TOKENIZER}"):
                organisation, repository, name = address.split("/", 2)
                try:
                    file = download_from_hub(f"{organisation}/{repository}", [name]) / name
                except UsageError:
                    return None
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise WeightsError(f"{file}: cannot be read ({problem.strerror})") from None
