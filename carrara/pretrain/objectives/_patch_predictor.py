"""The networks of joint embedding: the encoder with the predictor of masked patches, and the error of a prediction.

Letters: B batch, N patches, P values of a patch, K visible and M masked patches, D dim of the encoder, E of the
predictor.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders.mel_patch import MelPatchEncoder, init_xavier, sinusoidal_positions
from carrara.nn.spectral.framing import no_autocast
from carrara.nn.transformer.vit import EPS, VitBlock, VitShape
from carrara.pretrain.recipes.joint_embedding import PredictorSettings


class JointEmbedding(nn.Module):
    """The encoder of visible patches and the predictor of masked ones; both are trained."""

    def __init__(self, encoder: MelPatchEncoder, settings: PredictorSettings, seed: int) -> None:
        super().__init__()
        self.encoder, dim = encoder, encoder.settings.dim
        shape = VitShape(
            frames=encoder.settings.columns * encoder.settings.patch,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            ffn_dim=settings.ffn_dim,
        )
        self.inward = nn.Linear(dim, settings.dim)
        self.mask_token = nn.Parameter(torch.empty(settings.dim))
        self.blocks = nn.ModuleList(VitBlock(shape) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(settings.dim, eps=EPS)
        self.outward = nn.Linear(settings.dim, dim)
        generator = torch.Generator().manual_seed(seed)
        for part in (self.inward, self.blocks, self.norm, self.outward):
            init_xavier(part, generator)
        with torch.no_grad():
            self.mask_token.normal_(0, 0.02, generator=generator)

    def forward(self, patches_BNP: Tensor, visible_BK: Tensor, masked_BM: Tensor) -> Tensor:
        """Return the predicted representations of the masked patches, `[B, M, D]`.

        Args:
            patches_BNP: all patches; only the visible ones are used.
            visible_BK, masked_BM: their indices.
        """
        settings = self.encoder.settings
        x_BKE = self.inward(self.encoder.encode(patches_BNP, visible_BK)[-1])
        columns = patches_BNP.shape[1] // settings.rows
        positions_NE = sinusoidal_positions(columns, settings.rows, x_BKE.shape[2], x_BKE.device)
        queries_BME = self.mask_token + positions_NE[masked_BM]
        x_BNE = torch.cat([x_BKE + positions_NE[visible_BK], queries_BME.to(x_BKE.dtype)], dim=1)
        for block in self.blocks:
            x_BNE = block(x_BNE, None)
        return self.outward(self.norm(x_BNE[:, visible_BK.shape[1] :]))

    def all_layers(self, patches_BNP: Tensor) -> list[Tensor]:
        """Return every layer of the encoder of whole crops."""
        return self.encoder.encode(patches_BNP)


def standardize(target_BMD: Tensor) -> Tensor:
    """Return each vector with mean 0 and variance 1, in float32."""
    with no_autocast(target_BMD):
        return functional.layer_norm(target_BMD.float(), target_BMD.shape[-1:])


def prediction_error(
    predicted_BMD: Tensor, target_BMD: Tensor, error: Literal["normalized", "squared"]
) -> tuple[Tensor, Tensor]:
    """Return the error of each patch `[B, M]`, in float32, and the predictions as they are compared `[B, M, D]`.

    Args:
        predicted_BMD: predictions.
        target_BMD: from `standardize`.
        error: `normalized`: |p/|p| − t/|t||² = 2 − 2 cos [niizumi2023 §3.2]; `squared`: the mean of (p − t)² over the
            values.
    """
    with no_autocast(predicted_BMD):
        predicted_BMD = predicted_BMD.float()
        if error == "normalized":
            predicted_BMD = functional.normalize(predicted_BMD, dim=-1)
            return (predicted_BMD - functional.normalize(target_BMD, dim=-1)).square().sum(-1), predicted_BMD
        return (predicted_BMD - target_BMD).square().mean(-1), predicted_BMD


def sum_by_position(values_BMD: Tensor, index_BM: Tensor, positions: int) -> Tensor:
    """Return, by position, the sum of the vectors, their number and the sum of their squares, `[N, D + 2]`, in float64.

    Args:
        values_BMD: vectors.
        index_BM: position of each.
        positions: their number, N.
    """
    values_SD, index_S = values_BMD.flatten(0, 1), index_BM.flatten()
    squares_S = values_SD.square().sum(1)
    parts = (values_SD, torch.ones_like(squares_S)[:, None], squares_S[:, None])
    return torch.cat(
        [part.new_zeros(positions, part.shape[1]).index_add(0, index_S, part) for part in parts], 1
    ).double()


def std_over_crops(sums_NE: Tensor) -> float:
    """Return the standard deviation of vectors at the same position, over all dimensions, from `sum_by_position`."""
    sums_ND, count_N, squares_N = sums_NE[:, :-2], sums_NE[:, -2], sums_NE[:, -1]
    deviations = squares_N.sum() - (sums_ND.square().sum(1) / count_N.clamp(min=1)).sum()
    freedom = (count_N.sum() - (count_N > 0).sum()).clamp(min=1) * sums_ND.shape[1]
    return float((deviations / freedom).clamp(min=0).sqrt())


def error_of_positions(sums_NE: Tensor, error: Literal["normalized", "squared"]) -> float:
    """Return the least error that predictions can have which know a patch's position and nothing of the crop.

    Args:
        sums_NE: of the standardized targets, from `sum_by_position`; these have norm √D.
        error: as in `prediction_error`.
    """
    sums_ND, count_N, squares_N = sums_NE[:, :-2], sums_NE[:, -2], sums_NE[:, -1]
    total, dim = count_N.sum(), sums_ND.shape[1]
    if error == "normalized":
        return float(2 - 2 * sums_ND.norm(dim=1).sum() / dim**0.5 / total)
    return float((squares_N.sum() - (sums_ND.square().sum(1) / count_N.clamp(min=1)).sum()) / total / dim)
