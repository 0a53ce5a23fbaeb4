"""Masked prediction over several label sets: what HuBERT and MERT are trained to do.

For each label set the last layer's masked frames are mapped into a small space and compared by cosine with one vector
a class; cross-entropy of the cosines over a temperature, summed over the sets and the masked frames. fairseq writes the
same as noise-contrastive estimation with all classes as negatives. Values (a CQT) come from one linear map and squared
error. With N masked frames in B clips of one length:

    loss = (sum of cross-entropies + sum of weight · errors) / N + penalty · (sum over clips of mean conv_out²) / B

N counts a frame once however many label sets there are. N and B are of everything that makes one step, so that a step
means the same however it is divided. Where `unmasked_weight` is not 0, the frames that are not masked are asked for
too, weigh that much, and count in N. Cosines and errors are in single precision under autocast. A target may have one
of its books asked for in each step, drawn from (seed, step), as in MERT's ablation (thesis, table 5.3).

Letters: B batch, T samples, F frames, S frames asked for, D width, C classes, Q label sets, P final width, M values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders._hubert.network import HubertEncoder
from carrara.nn.spectral.framing import float32
from carrara.pretrain.masks import View
from carrara.pretrain.recipes._base import ObjectiveSettings
from carrara.pretrain.targets._base import Target


@dataclass
class Losses:
    """The loss of some crops in sums, and what the journal wants to know of it.

    Attributes:
        answers: loss of the answers, summed over frames.
        penalty: feature penalty, summed over clips.
        frames: number of frames asked for (N).
        masked: number of those that are masked.
        clips: number of clips (B).
        parts: sums over masked frames by name, detached: `asked/…`, `loss/…`, `correct/…`, `error/…`, `baseline/…`.
        predicted, wanted: number of times each class was predicted and was right, by label set.
        spread: number, sum and sum of squares of values, `[3, M]`, by `target/…` and `prediction/…`.
    """

    answers: Tensor
    penalty: Tensor
    frames: int
    masked: int
    clips: int
    parts: dict[str, Tensor] = field(default_factory=dict)
    predicted: dict[str, Tensor] = field(default_factory=dict)
    wanted: dict[str, Tensor] = field(default_factory=dict)
    spread: dict[str, Tensor] = field(default_factory=dict)

    def loss(self, frames: float, clips: float) -> Tensor:
        """Return this part of the loss of a step in which so many frames of so many clips are asked for."""
        return self.answers / max(frames, 1) + self.penalty / max(clips, 1)


def cosine_logits(projected_SP: Tensor, classes_CP: Tensor, temperature: float) -> Tensor:
    """Return the cosines over the temperature, `[S, C]`, in single precision."""
    with float32(projected_SP):
        projected_SP = functional.normalize(projected_SP.float(), dim=-1)
        return projected_SP @ functional.normalize(classes_CP.float(), dim=-1).T / temperature


class MaskedPrediction(nn.Module):
    """An encoder with the heads that its targets need; everything in it is trained."""

    def __init__(
        self, encoder: HubertEncoder, targets: Mapping[str, Target], settings: ObjectiveSettings, seed: int
    ) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self.seed = seed
        self.use = {name: target.use for name, target in targets.items()}
        self.weights = {name: target.settings.weight for name, target in targets.items()}
        self.sets = {
            name: [f"{name}.{book}" if len(target.num_classes) > 1 else name for book in range(len(target.num_classes))]
            for name, target in targets.items()
        }
        width, final = encoder.settings.dim, settings.final_dim
        generator = torch.Generator().manual_seed(seed)
        classes = [count for target in targets.values() for count in target.num_classes]
        self.project = _linear(width, final * len(classes), generator) if classes else None
        # fairseq draws the classes' vectors from U(0, 1): all start in one corner of the space.
        self.classes = nn.ParameterList(
            [nn.Parameter(torch.rand(count, final, generator=generator)) for count in classes]
        )
        self.values = nn.ModuleDict(
            {
                name: _linear(width, target.num_values, generator)
                for name, target in targets.items()
                if target.num_values
            }
        )
        self.means = {name: target.mean_M for name, target in targets.items() if target.num_values}

    def forward(self, samples_BT: Tensor, view: View, labels: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Return the loss of the frames asked for.

        Args:
            samples_BT: what the student hears.
            view: which frames it does not see; frames after its end are seen and not asked for.
            labels: of each target, `[B, F, Q]` or `[B, F, M]`, at least as many frames as in the view.
            step: decides which books are asked for, where a target wants one at random.
        """
        cnn_BFC = self.encoder.front(samples_BT)
        masked_BF, end = view.asked_BF, view.asked_BF.shape[1]
        hidden_BF = functional.pad(view.hidden_BF, (0, cnn_BFC.shape[1] - end))
        hidden_BFD = self.encoder.rows(cnn_BFC, mask_BF=hidden_BF, spoil=view.spoil)[-1]
        asked_BF = masked_BF if self.settings.unmasked_weight == 0 else torch.ones_like(masked_BF)
        hidden_SD, masked_S = hidden_BFD[:, :end][asked_BF], masked_BF[asked_BF]
        answers = {name: label[:, :end][asked_BF] for name, label in labels.items()}
        penalty = self.settings.feature_penalty * cnn_BFC.float().square().mean(dim=(1, 2)).sum()
        losses = Losses(
            hidden_SD.new_zeros((), dtype=torch.float32), penalty, len(masked_S), int(masked_S.sum()), len(samples_BT)
        )
        self._classify(hidden_SD, answers, masked_S, losses, step)
        self._reconstruct(hidden_SD, answers, masked_S, losses)
        return losses

    def features(self, samples_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the convolutions' output and every row of the encoder, of crops heard whole."""
        cnn_BFC = self.encoder.front(samples_BT)
        return cnn_BFC, self.encoder.rows(cnn_BFC)

    def books(self, name: str, step: int) -> range:
        """Return which books of a target are asked for in a step."""
        count, use = len(self.sets[name]), self.use[name]
        if use == "all":
            return range(count)
        if use == "random":
            drawn = np.random.default_rng([self.seed, step, list(self.sets).index(name)]).integers(count)
            return range(int(drawn), int(drawn) + 1)
        return range(int(use), int(use) + 1)

    def _classify(
        self, hidden_SD: Tensor, answers: Mapping[str, Tensor], masked_S: Tensor, losses: Losses, step: int
    ) -> None:
        if self.project is None:
            return
        parts = iter(zip(self.project(hidden_SD).chunk(len(self.classes), dim=-1), self.classes))
        for name, sets in self.sets.items():
            asked = self.books(name, step)
            for book, label_set in enumerate(sets):
                projected_SP, classes_CP = next(parts)
                if book not in asked:
                    continue
                logits_SC = cosine_logits(projected_SP, classes_CP, self.settings.temperature)
                codes_S = answers[name][:, book]
                loss_S = functional.cross_entropy(logits_SC, codes_S, reduction="none")
                losses.answers = losses.answers + self.weights[name] * self._summed(loss_S, masked_S)
                guess_S, right_S = logits_SC.detach().argmax(dim=-1)[masked_S], codes_S[masked_S]
                losses.parts[f"asked/{label_set}"] = masked_S.sum()
                losses.parts[f"loss/{label_set}"] = loss_S.detach()[masked_S].sum()
                losses.parts[f"correct/{label_set}"] = (guess_S == right_S).sum()
                losses.predicted[label_set] = torch.bincount(guess_S, minlength=len(classes_CP))
                losses.wanted[label_set] = torch.bincount(right_S, minlength=len(classes_CP))

    def _reconstruct(self, hidden_SD: Tensor, answers: Mapping[str, Tensor], masked_S: Tensor, losses: Losses) -> None:
        for name, head in self.values.items():
            guess_SM, value_SM = head(hidden_SD).float(), answers[name]
            # A mean over bins and a sum over frames: N times the mean squared error.
            error_S = (guess_SM - value_SM).square().mean(dim=-1)
            losses.answers = losses.answers + self.weights[name] * self._summed(error_S, masked_S)
            baseline_S = (value_SM - self.means[name].to(value_SM.device)).square().mean(dim=-1)
            losses.parts[f"error/{name}"] = error_S.detach()[masked_S].sum()
            losses.parts[f"baseline/{name}"] = baseline_S[masked_S].sum()
            losses.spread[f"target/{name}"] = _spread(value_SM[masked_S])
            losses.spread[f"prediction/{name}"] = _spread(guess_SM.detach()[masked_S])

    def _summed(self, loss_S: Tensor, masked_S: Tensor) -> Tensor:
        weight = self.settings.unmasked_weight
        return loss_S.sum() if weight == 0 else loss_S[masked_S].sum() + weight * loss_S[~masked_S].sum()


def _spread(values_SM: Tensor) -> Tensor:
    values_SM = values_SM.double()
    return torch.stack([torch.ones_like(values_SM).sum(0), values_SM.sum(0), values_SM.square().sum(0)])


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map as PyTorch initialises one, from a generator of its own."""
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear


def merged(parts: Sequence[Losses]) -> Losses:
    """Return the sums over parts of a step, detached."""
    sums: dict[str, dict[str, Tensor]] = {"parts": {}, "predicted": {}, "wanted": {}, "spread": {}}
    for part in parts:
        for kind, found in sums.items():
            for name, value in getattr(part, kind).items():
                found[name] = found[name] + value if name in found else value
    return Losses(
        torch.stack([part.answers.detach() for part in parts]).sum(),
        torch.stack([part.penalty.detach() for part in parts]).sum(),
        sum(part.frames for part in parts),
        sum(part.masked for part in parts),
        sum(part.clips for part in parts),
        **sums,
    )
