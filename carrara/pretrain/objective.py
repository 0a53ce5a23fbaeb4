"""Masked prediction over several label sets: what HuBERT and MERT are trained to do.

For each label set the last layer's masked frames are mapped into a small space and compared by cosine with one vector
a class; cross-entropy of the cosines over a temperature, summed over the sets and the masked frames. fairseq writes the
same as noise-contrastive estimation with all classes as negatives. Values (a CQT) come from one linear map and squared
error. With N masked frames:

    loss = sum of cross-entropies + N · (penalty · mean(conv_out²) + sum of weight · mean squared error),  over N

N counts a frame once however many label sets there are, and is summed over everything that makes one step, so that a
step means the same however it is divided. Where `unmasked_weight` is not 0, the frames that are not masked are asked
for too, weigh that much, and count in N. Cosines and errors are in single precision under autocast.

Letters: B batch, T samples, F frames, S frames asked for, D width, C classes, Q label sets, P final width, M values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders._hubert import HubertEncoder
from carrara.nn.framing import float32
from carrara.pretrain.recipes._base import ObjectiveSettings
from carrara.pretrain.targets._base import Target


@dataclass
class Losses:
    """The loss of some crops, summed over frames, and what the journal wants to know of it.

    Attributes:
        total: to be divided by `frames` and differentiated.
        frames: number of frames asked for (N).
        masked: number of those that are masked.
        parts: sums over masked frames by name, detached: `loss/…`, `correct/…`, `error/…`, `baseline/…`, `penalty`.
        predicted: number of times each class was predicted, by label set.
    """

    total: Tensor
    frames: int
    masked: int
    parts: dict[str, Tensor] = field(default_factory=dict)
    predicted: dict[str, Tensor] = field(default_factory=dict)


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
        self.weights = {name: target.settings.weight for name, target in targets.items()}
        self.sets = {
            name: [f"{name}.{book}" if len(target.books) > 1 else name for book in range(len(target.books))]
            for name, target in targets.items()
        }
        width, final = encoder.settings.width, settings.final_width
        generator = torch.Generator().manual_seed(seed)
        classes = [count for target in targets.values() for count in target.books]
        self.project = _linear(width, final * len(classes), generator) if classes else None
        # fairseq draws the classes' vectors from U(0, 1): all start in one corner of the space.
        self.classes = nn.ParameterList(
            [nn.Parameter(torch.rand(count, final, generator=generator)) for count in classes]
        )
        self.values = nn.ModuleDict(
            {name: _linear(width, target.bins, generator) for name, target in targets.items() if target.bins}
        )
        self.means = {name: target.mean_M for name, target in targets.items() if target.bins}

    def forward(self, samples_BT: Tensor, mask_BF: Tensor, labels: Mapping[str, Tensor]) -> Losses:
        """Return the loss of the frames asked for.

        Args:
            samples_BT: what the student hears.
            mask_BF: which frames it does not see; frames after its end are seen and not asked for.
            labels: of each target, `[B, F, Q]` or `[B, F, M]`, F as in the mask.
        """
        cnn_BFC = self.encoder.front(samples_BT)
        mask_BF = mask_BF[:, : min(label.shape[1] for label in labels.values())]
        end = mask_BF.shape[1]
        hidden_BFD = self.encoder.rows(cnn_BFC, mask_BF=functional.pad(mask_BF, (0, cnn_BFC.shape[1] - end)))[-1]
        asked_BF = mask_BF if self.settings.unmasked_weight == 0 else torch.ones_like(mask_BF)
        hidden_SD, masked_S = hidden_BFD[:, :end][asked_BF], mask_BF[asked_BF]
        answers = {name: label[:, :end][asked_BF] for name, label in labels.items()}
        frames, masked = len(masked_S), int(masked_S.sum())
        penalty = self.settings.feature_penalty * cnn_BFC.float().square().mean()
        losses = Losses(frames * penalty, frames, masked, {"penalty": masked * penalty.detach()})
        self._classify(hidden_SD, answers, masked_S, losses)
        self._reconstruct(hidden_SD, answers, masked_S, losses)
        return losses

    def _classify(self, hidden_SD: Tensor, answers: Mapping[str, Tensor], masked_S: Tensor, losses: Losses) -> None:
        if self.project is None:
            return
        parts = iter(zip(self.project(hidden_SD).chunk(len(self.classes), dim=-1), self.classes))
        for name, sets in self.sets.items():
            for book, label_set in enumerate(sets):
                projected_SP, classes_CP = next(parts)
                logits_SC = cosine_logits(projected_SP, classes_CP, self.settings.temperature)
                codes_S = answers[name][:, book]
                loss_S = functional.cross_entropy(logits_SC, codes_S, reduction="none")
                losses.total = losses.total + self.weights[name] * self._summed(loss_S, masked_S)
                guess_S = logits_SC.detach().argmax(dim=-1)[masked_S]
                losses.parts[f"loss/{label_set}"] = loss_S.detach()[masked_S].sum()
                losses.parts[f"correct/{label_set}"] = (guess_S == codes_S[masked_S]).sum()
                losses.predicted[label_set] = torch.bincount(guess_S, minlength=len(classes_CP))

    def _reconstruct(self, hidden_SD: Tensor, answers: Mapping[str, Tensor], masked_S: Tensor, losses: Losses) -> None:
        for name, head in self.values.items():
            guess_SM, value_SM = head(hidden_SD).float(), answers[name]
            # A mean over bins and a sum over frames: N times the mean squared error.
            error_S = (guess_SM - value_SM).square().mean(dim=-1)
            losses.total = losses.total + self.weights[name] * self._summed(error_S, masked_S)
            baseline_S = (value_SM - self.means[name].to(value_SM.device)).square().mean(dim=-1)
            losses.parts[f"error/{name}"] = error_S.detach()[masked_S].sum()
            losses.parts[f"baseline/{name}"] = baseline_S[masked_S].sum()

    def _summed(self, loss_S: Tensor, masked_S: Tensor) -> Tensor:
        weight = self.settings.unmasked_weight
        return loss_S.sum() if weight == 0 else loss_S[masked_S].sum() + weight * loss_S[~masked_S].sum()


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map as PyTorch initialises one, from a generator of its own."""
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear
