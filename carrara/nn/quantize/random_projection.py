"""Quantizers that look codes up by cosine in 16 projected dimensions: BEST-RQ's random one, MuQ's learned one.

`RandomProjection` ([chiu2022]; MusicFM [won2024]): a frozen random matrix maps standardized features to 16 numbers,
whose direction is compared with frozen random directions. Nothing is learned, and it teaches nearly as well as learned
codes. Several codebooks are independent draws (as in USM [zhang2023]), not residuals.

`ProjectedRVQ` (MuQ's Mel-RVQ [zhu2025], with DAC's lookup [kumar2023]): a linear map into 16 dimensions and one out of
them for each codebook; maps and codes are learned by gradient from the L1 of the reconstruction, the squared error of
the codes and 0.25 times that of the commitment. Codes unused for 100 steps are replaced by a vector of the batch. The
start is a random projection. MuQ normalizes the maps' weights; here they are plain.

Letters: N points, D dimensions, P projected dimensions, Q codebooks, K codes of a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.nn.quantize.kmeans import nearest_centroids
from carrara.nn.spectral.framing import no_autocast

PROJECTED_DIM = 16
COMMITMENT_WEIGHT = 0.25
REPLACE_AFTER_STEPS = 100
REPORT_STEPS = 100


def _nearest_by_cosine(points_NP: Tensor, codes_KP: Tensor) -> Tensor:
    """Return the index of the code with the highest cosine to each point, int64 `[N]`."""
    return nearest_centroids(
        functional.normalize(points_NP.float(), dim=1), functional.normalize(codes_KP.float(), dim=1)
    )


class RandomProjection(nn.Module):
    """Frozen random maps and codes; unless the points are standardized first, few codes are used [chiu2022 §3.1]."""

    maps_QDP: Tensor
    codes_QKP: Tensor

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.register_buffer("maps_QDP", torch.zeros(num_codebooks, dim, PROJECTED_DIM))
        self.register_buffer("codes_QKP", torch.zeros(num_codebooks, codebook_size, PROJECTED_DIM))

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the maps (Xavier's normal distribution) and the codes from a generator on the CPU."""
        std = (2.0 / sum(self.maps_QDP.shape[1:])) ** 0.5
        self.maps_QDP.copy_(torch.randn(self.maps_QDP.shape, generator=generator) * std)
        self.codes_QKP.copy_(functional.normalize(torch.randn(self.codes_QKP.shape, generator=generator), dim=2))

    def encode(self, points_ND: Tensor, num_codebooks: int) -> Tensor:
        """Return the codes of the first codebooks, int64 `[N, Q]`."""
        with no_autocast(points_ND):
            points_ND = points_ND.float()
            pairs = zip(self.maps_QDP[:num_codebooks], self.codes_QKP[:num_codebooks])
            return torch.stack([_nearest_by_cosine(points_ND @ map_DP, codes_KP) for map_DP, codes_KP in pairs], dim=1)


@dataclass(frozen=True)
class Reconstruction:
    """The result of a batch.

    Attributes:
        points_ND: sum of the codebooks' outputs.
        loss: training loss, a scalar.
        codes_NQ: nearest codes.
        projected: each codebook's projected points, `[N, P]`, detached.
    """

    points_ND: Tensor
    loss: Tensor
    codes_NQ: Tensor
    projected: tuple[Tensor, ...]


class ProjectedRVQ(nn.Module):
    """Codebooks learned by gradient, each on the remainder of those before it; points are standardized first."""

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.inward_QDP = nn.Parameter(torch.zeros(num_codebooks, dim, PROJECTED_DIM))
        self.outward_QPD = nn.Parameter(torch.zeros(num_codebooks, PROJECTED_DIM, dim))
        self.codes_QKP = nn.Parameter(torch.zeros(num_codebooks, codebook_size, PROJECTED_DIM))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw orthonormal projections, with their transposes as the maps back, and normal codes."""
        for inward_DP, outward_PD in zip(self.inward_QDP, self.outward_QPD):
            projection_DP = torch.linalg.qr(torch.randn(inward_DP.shape, generator=generator)).Q
            inward_DP.copy_(projection_DP)
            outward_PD.copy_(projection_DP.T)
        self.codes_QKP.copy_(torch.randn(self.codes_QKP.shape, generator=generator))

    @torch.no_grad()
    def encode(self, points_ND: Tensor, num_codebooks: int) -> Tensor:
        """Return the codes of the first codebooks, int64 `[N, Q]`."""
        with no_autocast(points_ND):
            residual_ND, codes = points_ND.float(), []
            for inward_DP, outward_PD, codes_KP in self._codebooks(num_codebooks):
                codes.append(_nearest_by_cosine(residual_ND @ inward_DP, codes_KP))
                residual_ND = residual_ND - codes_KP[codes[-1]] @ outward_PD
            return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes_NQ: Tensor) -> Tensor:
        """Return the points of codes, `[N, D]`; only of the first codebooks where fewer codes are given."""
        codebooks = zip(codes_NQ.unbind(dim=1), self.codes_QKP, self.outward_QPD)
        parts = [codes_KP[codes_N] @ outward_PD for codes_N, codes_KP, outward_PD in codebooks]
        return torch.stack(parts).sum(dim=0)

    def forward(self, points_ND: Tensor) -> Reconstruction:
        """Return the reconstruction of the points with its loss."""
        residual_ND, total_ND = points_ND, torch.zeros_like(points_ND)
        code_loss, codes, projected = points_ND.new_zeros(()), [], []
        for inward_DP, outward_PD, codes_KP in self._codebooks():
            inner_NP = residual_ND @ inward_DP
            codes_N = _nearest_by_cosine(inner_NP.detach(), codes_KP.detach())
            nearest_NP = codes_KP[codes_N]
            code_loss = code_loss + functional.mse_loss(nearest_NP, inner_NP.detach())
            code_loss = code_loss + COMMITMENT_WEIGHT * functional.mse_loss(inner_NP, nearest_NP.detach())
            # Straight-through: the gradient of the lookup is the identity.
            output_ND = (inner_NP + (nearest_NP - inner_NP).detach()) @ outward_PD
            total_ND = total_ND + output_ND
            residual_ND = residual_ND - output_ND.detach()
            codes.append(codes_N)
            projected.append(inner_NP.detach())
        loss = functional.l1_loss(total_ND, points_ND) + code_loss
        return Reconstruction(total_ND, loss, torch.stack(codes, dim=1), tuple(projected))

    def fit(
        self, points_ND: Tensor, steps: int, generator: torch.Generator, batch: int = 2048, rate: float = 1e-3
    ) -> list[float]:
        """Train on the points, from the present weights, and return the mean loss of every 100 steps.

        Raises:
            UsageError: there are fewer points than codes.
        """
        size = self.codes_QKP.shape[1]
        if len(points_ND) < size:
            raise UsageError(
                f"{size} codes need at least {size} frames, not {len(points_ND)}; use a smaller codebook_size or more "
                "audio"
            )
        optimizer = torch.optim.Adam(self.parameters(), lr=rate)
        unused_steps_QK = torch.zeros(self.codes_QKP.shape[:2], dtype=torch.int64, device=points_ND.device)
        losses = []
        with torch.enable_grad(), no_autocast(points_ND):
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = rate * (1 - step / steps)
                indices_N = torch.randint(len(points_ND), (min(batch, len(points_ND)),), generator=generator)
                result = self(points_ND[indices_N.to(points_ND.device)].float())
                optimizer.zero_grad(set_to_none=True)
                result.loss.backward()
                optimizer.step()
                self._replace_unused(result, unused_steps_QK, generator)
                losses.append(float(result.loss.detach()))
        parts = [losses[start : start + REPORT_STEPS] for start in range(0, steps, REPORT_STEPS)]
        return [sum(part) / len(part) for part in parts]

    @torch.no_grad()
    def _replace_unused(self, result: Reconstruction, steps_QK: Tensor, generator: torch.Generator) -> None:
        steps_QK += 1
        for codes_KP, codes_N, steps_K, inner_NP in zip(self.codes_QKP, result.codes_NQ.T, steps_QK, result.projected):
            steps_K[codes_N] = 0
            unused_G = (steps_K >= REPLACE_AFTER_STEPS).nonzero()[:, 0]
            drawn_G = torch.randint(len(inner_NP), (len(unused_G),), generator=generator).to(inner_NP.device)
            codes_KP[unused_G] = inner_NP[drawn_G]
            steps_K[unused_G] = 0

    def _codebooks(self, count: int | None = None) -> zip[tuple[Tensor, Tensor, Tensor]]:
        return zip(self.inward_QDP[:count], self.outward_QPD[:count], self.codes_QKP[:count])
