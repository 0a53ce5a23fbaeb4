"""Masked prediction over several label sets, the objective of HuBERT and MERT.

For each label set the last layer's masked frames are projected and compared by cosine with one embedding per class;
the cross-entropy of the cosines over a temperature is summed over label sets and masked frames. fairseq writes the same
as noise-contrastive estimation with all classes as negatives [hsu2021]. Values (a CQT) are predicted by one linear map
under squared error. With N masked frames in B clips of equal length:

    loss = (sum of cross-entropies + sum of weight · errors) / N + penalty · (sum over clips of mean conv_out²) / B

N counts a frame once however many label sets there are; N and B are those of the whole step, so a step means the same
however it is divided. If `unmasked_weight` is not 0, unmasked frames are predicted too with that weight and count in N.
Cosines and errors are in float32 under autocast. A target may predict one codebook per step, drawn from (seed, step)
[yuan2023thesis table 5.3].

Letters: B batch, T samples, F frames, S predicted frames, D dim, C classes, Q codebooks, P projection, M values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders._hubert.network import HubertEncoder
from carrara.nn.spectral.framing import no_autocast
from carrara.pretrain.masks import MaskPlan
from carrara.pretrain.recipes._base import ObjectiveSettings
from carrara.pretrain.targets._base import Target


@dataclass
class Losses:
    """Sums of the loss and of the metrics over some crops.

    Attributes:
        prediction: loss of the predictions, summed over frames.
        penalty: feature penalty, summed over clips.
        num_frames: predicted frames (N).
        num_masked: masked frames among them.
        num_clips: clips (B).
        sums: sums over masked frames, detached: `frames/SET`, `loss/SET`, `correct/SET` of each label set,
            `mse/TARGET`, `baseline/TARGET` of values.
        predicted_counts, target_counts: how often each class of a label set was predicted and was the label.
        moments: number, sum and sum of squares of values, `[3, M]`, by `target/NAME` and `prediction/NAME`.
    """

    prediction: Tensor
    penalty: Tensor
    num_frames: int
    num_masked: int
    num_clips: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    predicted_counts: dict[str, Tensor] = field(default_factory=dict)
    target_counts: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)

    def loss(self, num_frames: float, num_clips: float) -> Tensor:
        """Return this part of the loss of a step with so many predicted frames and clips in all."""
        return self.prediction / max(num_frames, 1) + self.penalty / max(num_clips, 1)

    def cpu(self) -> Losses:
        """Return the same sums on the CPU."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = {key: tensor.cpu() for key, tensor in value.items()}
            elif isinstance(value, Tensor):
                values[name] = value.cpu()
        return Losses(**values)

    def metrics(self) -> dict[str, float]:
        """Return the averages that the log has (see metrics_log.py); empty where no frame was masked."""
        if not self.num_masked:
            return {}
        sums = {name: float(value) for name, value in self.sums.items()}
        penalty = float(self.penalty) / self.num_clips
        metrics = {"loss": float(self.prediction) / self.num_frames + penalty, "penalty": penalty}
        for name, counts in self.predicted_counts.items():
            frames = max(sums[f"frames/{name}"], 1)
            metrics[f"loss/{name}"] = sums[f"loss/{name}"] / frames
            metrics[f"accuracy/{name}"] = sums[f"correct/{name}"] / frames
            metrics[f"classes_used/{name}"] = int((counts > 0).sum())
            metrics[f"perplexity/{name}"] = _perplexity(counts)
            metrics[f"perplexity_target/{name}"] = _perplexity(self.target_counts[name])
        for key, error in sums.items():
            kind, _, name = key.partition("/")
            if kind == "mse":
                metrics[key] = error / self.num_masked
                metrics[f"relative_mse/{name}"] = error / max(sums[f"baseline/{name}"], 1e-12)
        for name, (counts, totals, squares) in self.moments.items():
            variance = squares / counts - (totals / counts).square()
            metrics[f"std/{name}"] = float(variance.clamp(min=0).sqrt().mean())
        return metrics


def merge_losses(parts: Sequence[Losses]) -> Losses:
    """Return the sums over all parts, detached and in float64."""
    merged: dict[str, dict[str, Tensor]] = {}
    for name in ("sums", "predicted_counts", "target_counts", "moments"):
        total = merged.setdefault(name, {})
        for part in parts:
            for key, value in getattr(part, name).items():
                value = value.double()
                total[key] = total[key] + value if key in total else value
    return Losses(
        torch.stack([part.prediction.detach().double() for part in parts]).sum(),
        torch.stack([part.penalty.detach().double() for part in parts]).sum(),
        sum(part.num_frames for part in parts),
        sum(part.num_masked for part in parts),
        sum(part.num_clips for part in parts),
        **merged,
    )


class MaskedPrediction(nn.Module):
    """An encoder with the prediction heads of its targets; all of it is trained."""

    def __init__(
        self, encoder: HubertEncoder, targets: Mapping[str, Target], settings: ObjectiveSettings, seed: int
    ) -> None:
        super().__init__()
        self.encoder, self.settings, self.seed = encoder, settings, seed
        self.use = {name: target.use for name, target in targets.items()}
        self.weights = {name: target.settings.weight for name, target in targets.items()}
        self.label_sets: dict[str, list[str]] = {}
        for name, target in targets.items():
            count = len(target.num_classes)
            self.label_sets[name] = [f"{name}.{index}" for index in range(count)] if count > 1 else [name] * count
        dim, final_dim = encoder.settings.dim, settings.final_dim
        generator = torch.Generator().manual_seed(seed)
        num_classes = [count for target in targets.values() for count in target.num_classes]
        self.project = _init_linear(dim, final_dim * len(num_classes), generator) if num_classes else None
        # fairseq draws the class embeddings from U(0, 1): all start in one corner of the space.
        self.classes = nn.ParameterList(
            [nn.Parameter(torch.rand(count, final_dim, generator=generator)) for count in num_classes]
        )
        self.values = nn.ModuleDict(
            {
                name: _init_linear(dim, target.num_values, generator)
                for name, target in targets.items()
                if target.num_values
            }
        )
        self.means = {name: target.mean_M for name, target in targets.items() if target.num_values}

    def forward(self, samples_BT: Tensor, plan: MaskPlan, labels: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Return the losses of the predicted frames.

        Args:
            samples_BT: the student's crops.
            plan: masks; frames after its end are neither masked nor predicted.
            labels: by target, `[B, F, Q]` or `[B, F, M]`, with at least as many frames as the plan.
            step: determines the codebook of targets that predict a random one.
        """
        cnn_BFC = self.encoder.conv_features(samples_BT)
        end = plan.masked_BF.shape[1]
        padded_mask_BF = functional.pad(plan.masked_BF, (0, cnn_BFC.shape[1] - end))
        hidden_BFD = self.encoder.layer_outputs(cnn_BFC, mask_BF=padded_mask_BF, corrupt=plan.corrupt)[-1]
        predicted_BF = plan.masked_BF if self.settings.unmasked_weight == 0 else torch.ones_like(plan.masked_BF)
        hidden_SD, masked_S = hidden_BFD[:, :end][predicted_BF], plan.masked_BF[predicted_BF]
        labels_S = {name: label[:, :end][predicted_BF] for name, label in labels.items()}
        penalty = self.settings.feature_penalty * cnn_BFC.float().square().mean(dim=(1, 2)).sum()
        losses = Losses(
            hidden_SD.new_zeros((), dtype=torch.float32), penalty, len(masked_S), int(masked_S.sum()), len(samples_BT)
        )
        self._predict_classes(hidden_SD, labels_S, masked_S, losses, step)
        self._predict_values(hidden_SD, labels_S, masked_S, losses)
        return losses

    def all_layers(self, samples_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the convolutions' output and every layer of the encoder, of crops without masks."""
        cnn_BFC = self.encoder.conv_features(samples_BT)
        return cnn_BFC, self.encoder.layer_outputs(cnn_BFC)

    def active_codebooks(self, name: str, step: int) -> range:
        """Return the codebooks of a target that a step predicts."""
        count, use = len(self.label_sets[name]), self.use[name]
        if use == "all":
            return range(count)
        if use == "random":
            index = int(np.random.default_rng([self.seed, step, list(self.label_sets).index(name)]).integers(count))
            return range(index, index + 1)
        return range(int(use), int(use) + 1)

    def _predict_classes(
        self, hidden_SD: Tensor, labels: Mapping[str, Tensor], masked_S: Tensor, losses: Losses, step: int
    ) -> None:
        if self.project is None:
            return
        heads = iter(zip(self.project(hidden_SD).chunk(len(self.classes), dim=-1), self.classes))
        for name, label_sets in self.label_sets.items():
            active = self.active_codebooks(name, step)
            for codebook, label_set in enumerate(label_sets):
                projected_SP, class_embeddings_CP = next(heads)
                if codebook not in active:
                    continue
                logits_SC = cosine_logits(projected_SP, class_embeddings_CP, self.settings.temperature)
                codes_S = labels[name][:, codebook]
                loss_S = functional.cross_entropy(logits_SC, codes_S, reduction="none")
                losses.prediction = losses.prediction + self.weights[name] * self._weighted_sum(loss_S, masked_S)
                predicted_S, target_S = logits_SC.detach().argmax(dim=-1)[masked_S], codes_S[masked_S]
                losses.sums[f"frames/{label_set}"] = masked_S.sum()
                losses.sums[f"loss/{label_set}"] = loss_S.detach()[masked_S].sum()
                losses.sums[f"correct/{label_set}"] = (predicted_S == target_S).sum()
                count = len(class_embeddings_CP)
                losses.predicted_counts[label_set] = torch.bincount(predicted_S, minlength=count)
                losses.target_counts[label_set] = torch.bincount(target_S, minlength=count)

    def _predict_values(
        self, hidden_SD: Tensor, labels: Mapping[str, Tensor], masked_S: Tensor, losses: Losses
    ) -> None:
        for name, head in self.values.items():
            predicted_SM, target_SM = head(hidden_SD).float(), labels[name]
            # A mean over values and a sum over frames: N times the mean squared error.
            error_S = (predicted_SM - target_SM).square().mean(dim=-1)
            losses.prediction = losses.prediction + self.weights[name] * self._weighted_sum(error_S, masked_S)
            baseline_S = (target_SM - self.means[name].to(target_SM.device)).square().mean(dim=-1)
            losses.sums[f"mse/{name}"] = error_S.detach()[masked_S].sum()
            losses.sums[f"baseline/{name}"] = baseline_S[masked_S].sum()
            losses.moments[f"target/{name}"] = _moments(target_SM[masked_S])
            losses.moments[f"prediction/{name}"] = _moments(predicted_SM.detach()[masked_S])

    def _weighted_sum(self, loss_S: Tensor, masked_S: Tensor) -> Tensor:
        weight = self.settings.unmasked_weight
        return loss_S.sum() if weight == 0 else loss_S[masked_S].sum() + weight * loss_S[~masked_S].sum()


def cosine_logits(projected_SP: Tensor, class_embeddings_CP: Tensor, temperature: float) -> Tensor:
    """Return the cosines over the temperature, `[S, C]`, in float32."""
    with no_autocast(projected_SP):
        projected_SP = functional.normalize(projected_SP.float(), dim=-1)
        return projected_SP @ functional.normalize(class_embeddings_CP.float(), dim=-1).T / temperature


def _moments(values_SM: Tensor) -> Tensor:
    values_SM = values_SM.double()
    return torch.stack([torch.ones_like(values_SM).sum(0), values_SM.sum(0), values_SM.square().sum(0)])


def _perplexity(counts_C: Tensor) -> float:
    probability_C = counts_C.double() / counts_C.sum().clamp(min=1)
    return float(torch.exp(-torch.xlogy(probability_C, probability_C).sum()))


def _init_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map with PyTorch's default initialization, drawn from a generator."""
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear
