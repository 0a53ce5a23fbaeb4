"""The network of masked prediction over several label sets: an encoder with prediction heads, and their losses.

For each label set the last layer's masked frames are projected and compared by cosine with one embedding per class;
the cross-entropy of the cosines over a temperature is summed over label sets and masked frames. fairseq writes the same
as noise-contrastive estimation with all classes as negatives [hsu2021]. The head "linear" is one linear map to logits
instead, as in BEST-RQ, MusicFM and MuQ. Values (a CQT) are predicted by one linear map
under squared error. With N masked frames in B clips of equal length:

    loss = (sum of cross-entropies + sum of weight · errors) / N + penalty · (sum over clips of mean conv_out²) / B

N counts a frame once however many label sets there are; N and B are those of the whole step, so a step means the same
however it is divided. If `unmasked_weight` is not 0, unmasked frames are predicted too with that weight and count in N.
Cosines and errors are in float32 under autocast. A target may predict one codebook per step, drawn from (seed, step)
[yuan2023thesis table 5.3]. `special_classes` adds class embeddings that are no label of any frame, after the target's.

Letters: B batch, T samples, F frames, S predicted frames, D dim, C classes, Q codebooks, P projection, M values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders._frame_encoder import FrameEncoder
from carrara.nn.spectral.framing import no_autocast
from carrara.pretrain.objectives._losses import CLIPS, Losses, LossTerm, mean_std, moments
from carrara.pretrain.recipes._base import ObjectiveSettings
from carrara.pretrain.targets._base import Target

FRAMES = "frames"  # the divisor of the prediction's loss


def prediction_metrics(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the averages that the log has (see metrics_log.py) from the sums of `MaskedPrediction.forward`.

    The result is empty where no frame was masked.
    """
    masked = float(sums.get("masked", 0))
    if not masked:
        return {}
    penalty = float(sums["penalty"] / sums[CLIPS])
    metrics = {"loss": float(sums["prediction"] / sums[FRAMES]) + penalty, "penalty": penalty}
    for key, value in sums.items():
        kind, _, name = key.partition("/")
        if kind == "predicted":
            frames = max(float(sums[f"frames/{name}"]), 1)
            metrics[f"loss/{name}"] = float(sums[f"loss/{name}"]) / frames
            metrics[f"accuracy/{name}"] = float(sums[f"correct/{name}"]) / frames
            metrics[f"classes_used/{name}"] = int((value > 0).sum())
            metrics[f"perplexity/{name}"] = _perplexity(value)
            metrics[f"perplexity_target/{name}"] = _perplexity(sums[f"labels/{name}"])
        elif kind == "mse":
            metrics[key] = float(value) / masked
            metrics[f"relative_mse/{name}"] = float(value) / max(float(sums[f"baseline/{name}"]), 1e-12)
        elif kind == "moments":
            metrics[f"std/{name}"] = mean_std(value)
    return metrics


class MaskedPrediction(nn.Module):
    """An encoder with the prediction heads of its targets; all of it is trained."""

    def __init__(
        self,
        encoder: FrameEncoder,
        targets: Mapping[str, Target],
        settings: ObjectiveSettings,
        seed: int,
        masks_by_vector: bool = True,
    ) -> None:
        """Draw the heads.

        Args:
            encoder: the student.
            targets: what is predicted.
            settings: heads and losses.
            seed: of the heads, and of the codebooks that a step predicts.
            masks_by_vector: whether the encoder's vector replaces masked frames; else their samples are noise already.
        """
        super().__init__()
        self.masks_by_vector = masks_by_vector
        self.encoder, self.settings, self.seed = encoder, settings, seed
        self.use = {name: target.use for name, target in targets.items()}
        self.weights = {name: target.settings.weight for name, target in targets.items()}
        self.label_sets: dict[str, list[str]] = {}
        for name, target in targets.items():
            count = len(target.num_classes)
            self.label_sets[name] = [f"{name}.{index}" for index in range(count)] if count > 1 else [name] * count
        dim, final_dim = encoder.card.dim, settings.final_dim
        generator = torch.Generator().manual_seed(seed)
        extra = settings.special_classes
        num_classes = [count + extra for target in targets.values() for count in target.num_classes]
        cosine_classes = num_classes if settings.head == "cosine" else []
        self.project = _init_linear(dim, final_dim * len(num_classes), generator) if cosine_classes else None
        # fairseq draws the class embeddings from U(0, 1): all start in one corner of the space.
        self.classes = nn.ParameterList(
            [nn.Parameter(torch.rand(count, final_dim, generator=generator)) for count in cosine_classes]
        )
        linear_classes = num_classes if settings.head == "linear" else []
        self.logits = nn.ModuleList([_init_linear(dim, count, generator) for count in linear_classes])
        self.values = nn.ModuleDict(
            {
                name: _init_linear(dim, target.num_values, generator)
                for name, target in targets.items()
                if target.num_values
            }
        )
        self.means = {name: target.mean_M for name, target in targets.items() if target.num_values}

    def forward(self, samples_BT: Tensor, masked_BF: Tensor, labels: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Return the losses of the predicted frames.

        The terms are `prediction` over frames and `penalty` over clips. The sums are over masked frames: `masked`;
        `frames/SET`, `loss/SET`, `correct/SET` of each label set and `predicted/SET`, `labels/SET`, how often each
        class was predicted and was the label; `mse/TARGET`, `baseline/TARGET` of values and `moments/target/TARGET`,
        `moments/prediction/TARGET`: number, sum and sum of squares, `[3, M]`.

        Args:
            samples_BT: the student's crops.
            masked_BF: which frames are masked; those after its end are neither masked nor predicted.
            labels: by target, `[B, F, Q]` or `[B, F, M]`, with at least as many frames as `masked_BF`.
            step: determines the codebook of targets that predict a random one.
        """
        cnn_BFC = self.encoder.conv_features(samples_BT)
        end = masked_BF.shape[1]
        padded_mask_BF = functional.pad(masked_BF, (0, cnn_BFC.shape[1] - end)) if self.masks_by_vector else None
        hidden_BFD = self.encoder.predictor_input(self.encoder.layer_outputs(cnn_BFC, mask_BF=padded_mask_BF)[-1])
        predicted_BF = masked_BF if self.settings.unmasked_weight == 0 else torch.ones_like(masked_BF)
        hidden_SD, masked_S = hidden_BFD[:, :end][predicted_BF], masked_BF[predicted_BF]
        labels_S = {name: label[:, :end][predicted_BF] for name, label in labels.items()}
        penalty = self.settings.feature_penalty * cnn_BFC.float().square().mean(dim=(1, 2)).sum()
        sums = {"masked": masked_S.sum()}
        prediction = hidden_SD.new_zeros((), dtype=torch.float32)
        for loss in self._predict_classes(hidden_SD, labels_S, masked_S, sums, step):
            prediction = prediction + loss
        for loss in self._predict_values(hidden_SD, labels_S, masked_S, sums):
            prediction = prediction + loss
        return Losses({"prediction": LossTerm(prediction, FRAMES), "penalty": LossTerm(penalty)}, sums)

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
        self, hidden_SD: Tensor, labels: Mapping[str, Tensor], masked_S: Tensor, sums: dict[str, Tensor], step: int
    ) -> Iterator[Tensor]:
        """Yield the weighted loss of each label set, and add to the sums."""
        projected = self.project(hidden_SD).chunk(len(self.classes), dim=-1) if self.project is not None else ()
        first = 0
        for name, label_sets in self.label_sets.items():
            active = self.active_codebooks(name, step)
            for codebook, label_set in enumerate(label_sets):
                if codebook not in active:
                    continue
                index = first + codebook
                if self.settings.head == "linear":
                    logits_SC = self.logits[index](hidden_SD).float()
                else:
                    logits_SC = cosine_logits(projected[index], self.classes[index], self.settings.temperature)
                codes_S = labels[name][:, codebook]
                loss_S = functional.cross_entropy(logits_SC, codes_S, reduction="none")
                yield self.weights[name] * self._weighted_sum(loss_S, masked_S)
                predicted_S, target_S = logits_SC.detach().argmax(dim=-1)[masked_S], codes_S[masked_S]
                sums[f"frames/{label_set}"] = masked_S.sum()
                sums[f"loss/{label_set}"] = loss_S.detach()[masked_S].sum()
                sums[f"correct/{label_set}"] = (predicted_S == target_S).sum()
                count = logits_SC.shape[-1]
                sums[f"predicted/{label_set}"] = torch.bincount(predicted_S, minlength=count)
                sums[f"labels/{label_set}"] = torch.bincount(target_S, minlength=count)
            first += len(label_sets)

    def _predict_values(
        self, hidden_SD: Tensor, labels: Mapping[str, Tensor], masked_S: Tensor, sums: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Yield the weighted loss of each target with values, and add to the sums."""
        for name, head in self.values.items():
            predicted_SM, target_SM = head(hidden_SD).float(), labels[name]
            # A mean over values and a sum over frames: N times the mean squared error.
            error_S = (predicted_SM - target_SM).square().mean(dim=-1)
            yield self.weights[name] * self._weighted_sum(error_S, masked_S)
            baseline_S = (target_SM - self.means[name].to(target_SM.device)).square().mean(dim=-1)
            sums[f"mse/{name}"] = error_S.detach()[masked_S].sum()
            sums[f"baseline/{name}"] = baseline_S[masked_S].sum()
            sums[f"moments/target/{name}"] = moments(target_SM[masked_S])
            sums[f"moments/prediction/{name}"] = moments(predicted_SM.detach()[masked_S])

    def _weighted_sum(self, loss_S: Tensor, masked_S: Tensor) -> Tensor:
        weight = self.settings.unmasked_weight
        return loss_S.sum() if weight == 0 else loss_S[masked_S].sum() + weight * loss_S[~masked_S].sum()


def cosine_logits(projected_SP: Tensor, class_embeddings_CP: Tensor, temperature: float) -> Tensor:
    """Return the cosines over the temperature, `[S, C]`, in float32."""
    with no_autocast(projected_SP):
        projected_SP = functional.normalize(projected_SP.float(), dim=-1)
        return projected_SP @ functional.normalize(class_embeddings_CP.float(), dim=-1).T / temperature


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
