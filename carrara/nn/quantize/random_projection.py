"""Quantisers that look codes up by angle in a small projected space: BEST-RQ's random one, MuQ's learnt one.

`RandomProjection` (BEST-RQ, Chiu et al. 2022; MusicFM, Won et al. 2024): a frozen random matrix maps the standardised
features to 16 numbers, whose direction is compared with frozen random directions. Nothing is learnt, and it teaches
nearly as well as learnt codes. Several books are independent draws (as in USM, Zhang et al. 2023), not residuals.

`ProjectedResidual` (MuQ's Mel-RVQ, Zhu et al. 2025; the lookup is DAC's, Kumar et al. 2023): a linear map into 16
numbers and one out of them for each book, the maps and the codes learnt by gradient: L1 of the reconstruction, once the
codes' and 0.25 times the commitment's squared error. Codes unused for 100 steps take the place of a vector of the
batch. The start is a random projection. MuQ normalises the maps' weights; here they are plain.

Letters: N points, D dimensions, P projected dimensions, Q books, K codes a book.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.nn.quantize.kmeans import assign
from carrara.nn.spectral.framing import float32

PROJECTED = 16
COMMITMENT = 0.25
PATIENCE = 100
REPORTED = 100


def by_angle(points_NP: Tensor, codes_KP: Tensor) -> Tensor:
    """Return the number of the code with the highest cosine to each point, int64 `[N]`."""
    return assign(functional.normalize(points_NP.float(), dim=1), functional.normalize(codes_KP.float(), dim=1))


class RandomProjection(nn.Module):
    """Frozen random maps and codes; standardise the points first, or few codes are used (BEST-RQ, section 3.1)."""

    maps_QDP: Tensor
    codes_QKP: Tensor

    def __init__(self, width: int, books: int, size: int) -> None:
        super().__init__()
        self.register_buffer("maps_QDP", torch.zeros(books, width, PROJECTED))
        self.register_buffer("codes_QKP", torch.zeros(books, size, PROJECTED))

    def draw(self, generator: torch.Generator) -> None:
        """Draw the maps (Xavier's normal distribution) and the codes from a generator on the CPU."""
        deviation = (2.0 / sum(self.maps_QDP.shape[1:])) ** 0.5
        self.maps_QDP.copy_(torch.randn(self.maps_QDP.shape, generator=generator) * deviation)
        self.codes_QKP.copy_(functional.normalize(torch.randn(self.codes_QKP.shape, generator=generator), dim=2))

    def encode(self, points_ND: Tensor, books: int) -> Tensor:
        """Return the codes of the first books, int64 `[N, Q]`."""
        with float32(points_ND):
            points_ND = points_ND.float()
            pairs = zip(self.maps_QDP[:books], self.codes_QKP[:books])
            return torch.stack([by_angle(points_ND @ map_DP, codes_KP) for map_DP, codes_KP in pairs], dim=1)


@dataclass(frozen=True)
class Reconstruction:
    """What a batch came to.

    Attributes:
        points_ND: the sum of what the books gave back.
        loss: to be differentiated.
        codes_NQ: which codes were nearest.
        inner: each book's projected points, `[N, P]`, detached.
    """

    points_ND: Tensor
    loss: Tensor
    codes_NQ: Tensor
    inner: tuple[Tensor, ...]


class ProjectedResidual(nn.Module):
    """Books that are learnt by gradient, each on what the ones before it left over; points are standardised first."""

    def __init__(self, width: int, books: int, size: int) -> None:
        super().__init__()
        self.inward_QDP = nn.Parameter(torch.zeros(books, width, PROJECTED))
        self.outward_QPD = nn.Parameter(torch.zeros(books, PROJECTED, width))
        self.codes_QKP = nn.Parameter(torch.zeros(books, size, PROJECTED))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw orthonormal random projections, with their transposes as the way back, and normal codes."""
        for inward_DP, outward_PD in zip(self.inward_QDP, self.outward_QPD):
            drawn_DP = torch.linalg.qr(torch.randn(inward_DP.shape, generator=generator)).Q
            inward_DP.copy_(drawn_DP)
            outward_PD.copy_(drawn_DP.T)
        self.codes_QKP.copy_(torch.randn(self.codes_QKP.shape, generator=generator))

    @torch.no_grad()
    def encode(self, points_ND: Tensor, books: int) -> Tensor:
        """Return the codes of the first books, int64 `[N, Q]`."""
        with float32(points_ND):
            residual_ND, codes = points_ND.float(), []
            for book in range(books):
                codes.append(by_angle(residual_ND @ self.inward_QDP[book], self.codes_QKP[book]))
                residual_ND = residual_ND - self.codes_QKP[book][codes[-1]] @ self.outward_QPD[book]
            return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes_NQ: Tensor) -> Tensor:
        """Return the points that the codes stand for, `[N, D]`; of the first books where fewer codes are given."""
        books = zip(codes_NQ.unbind(dim=1), self.codes_QKP, self.outward_QPD)
        parts = [codes_KP[codes_N] @ outward_PD for codes_N, codes_KP, outward_PD in books]
        return torch.stack(parts).sum(dim=0)

    def forward(self, points_ND: Tensor) -> Reconstruction:
        """Return the reconstruction of the points with its loss."""
        residual_ND, total_ND = points_ND, torch.zeros_like(points_ND)
        extra, codes, inner = points_ND.new_zeros(()), [], []
        for inward_DP, outward_PD, codes_KP in zip(self.inward_QDP, self.outward_QPD, self.codes_QKP):
            inner_NP = residual_ND @ inward_DP
            codes_N = by_angle(inner_NP.detach(), codes_KP.detach())
            found_NP = codes_KP[codes_N]
            extra = extra + functional.mse_loss(found_NP, inner_NP.detach())
            extra = extra + COMMITMENT * functional.mse_loss(inner_NP, found_NP.detach())
            # The gradient passes the lookup as though it were not there.
            given_ND = (inner_NP + (found_NP - inner_NP).detach()) @ outward_PD
            total_ND = total_ND + given_ND
            residual_ND = residual_ND - given_ND.detach()
            codes.append(codes_N)
            inner.append(inner_NP.detach())
        loss = functional.l1_loss(total_ND, points_ND) + extra
        return Reconstruction(total_ND, loss, torch.stack(codes, dim=1), tuple(inner))

    def fit(
        self, points_ND: Tensor, steps: int, generator: torch.Generator, batch: int = 2048, rate: float = 1e-3
    ) -> list[float]:
        """Learn from the points, from wherever the module stands, and return the loss, a mean for every 100 steps.

        Raises:
            UsageError: fewer points than codes.
        """
        size = self.codes_QKP.shape[1]
        if len(points_ND) < size:
            raise UsageError(
                f"{size} codes cannot be had from {len(points_ND)} frames; use a smaller size or more audio"
            )
        optimiser = torch.optim.Adam(self.parameters(), lr=rate)
        idle_QK = torch.zeros(self.codes_QKP.shape[:2], dtype=torch.int64, device=points_ND.device)
        losses = []
        with torch.enable_grad(), float32(points_ND):
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1 - step / steps)
                drawn_N = torch.randint(len(points_ND), (min(batch, len(points_ND)),), generator=generator)
                found = self(points_ND[drawn_N.to(points_ND.device)].float())
                optimiser.zero_grad(set_to_none=True)
                found.loss.backward()
                optimiser.step()
                self._revive(found, idle_QK, generator)
                losses.append(float(found.loss.detach()))
        return [sum(part) / len(part) for part in (losses[at : at + REPORTED] for at in range(0, steps, REPORTED))]

    @torch.no_grad()
    def _revive(self, found: Reconstruction, idle_QK: Tensor, generator: torch.Generator) -> None:
        idle_QK += 1
        for codes_KP, codes_N, idle_K, inner_NP in zip(self.codes_QKP, found.codes_NQ.T, idle_QK, found.inner):
            idle_K[codes_N] = 0
            gone_G = (idle_K >= PATIENCE).nonzero()[:, 0]
            drawn_G = torch.randint(len(inner_NP), (len(gone_G),), generator=generator).to(inner_NP.device)
            codes_KP[gone_G] = inner_NP[drawn_G]
            idle_K[gone_G] = 0
