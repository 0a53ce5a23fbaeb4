"""Three dilated convolutions over frames, which see 14 frames to either side; logits for each frame or each example.

Kernels of 5 frames with dilations 1, 2 and 4 (the dilated stacks of WaveNet [oord2016], here in both directions), each
followed by layer normalisation over the channels, ReLU and dropout. An example's logits come from the mean over its
frames. Frames beyond an example's own are set to zero before every convolution, like the border of a recording.

Letters: B examples, F frames of an example, D features, H channels, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape, masked_mean

KERNEL = 5
DILATIONS = (1, 2, 4)


class Conv(nn.Module):
    """The convolutions and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.each_row = shape.each_row
        dims = (shape.dim, *(shape.hidden for _ in DILATIONS[1:]))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, shape.hidden, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
            for dim, dilation in zip(dims, DILATIONS)
        )
        self.after = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)) for _ in DILATIONS
        )
        self.outer = nn.Linear(shape.hidden, shape.outputs)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return the logits of each frame, `[B, F, K]`, or of each example, `[B, K]`."""
        x_BFH = x_BFD
        for convolution, after in zip(self.convolutions, self.after):
            x_BHF = x_BFH.masked_fill(~valid_BF[..., None], 0).transpose(1, 2)
            x_BFH = after(convolution(x_BHF).transpose(1, 2))
        return self.outer(x_BFH if self.each_row else masked_mean(x_BFH, valid_BF))


HEAD = Head(frames=True, each_row=True, build=Conv)
