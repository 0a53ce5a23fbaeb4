"""Three convolutions over frames, each hearing twice as far as the one before; one answer a frame or an example.

Kernels of 5 frames with dilations 1, 2 and 4 (the dilated stacks of WaveNet, van den Oord et al. 2016, arXiv
1609.03499, here in both directions): an output hears 14 frames to either side. Layer normalisation over the channels,
ReLU and dropout after each. An example's answer comes from the mean over its frames. Frames beyond an example's own are
put to zero before every convolution, so they are what the border of a recording is.

Letters: B examples, F frames of an example, D features, H channels, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape, mean_of_known

KERNEL = 5
DILATIONS = (1, 2, 4)


class Conv(nn.Module):
    """The convolutions and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.each_row = shape.each_row
        widths = (shape.width, *(shape.hidden for _ in DILATIONS[1:]))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, shape.hidden, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
            for width, dilation in zip(widths, DILATIONS)
        )
        self.after = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)) for _ in DILATIONS
        )
        self.outer = nn.Linear(shape.hidden, shape.outputs)

    def forward(self, x_BFD: Tensor, known_BF: Tensor) -> Tensor:
        """Return the logits of each frame, `[B, F, K]`, or of each example, `[B, K]`."""
        x_BFH = x_BFD
        for convolution, after in zip(self.convolutions, self.after):
            x_BHF = x_BFH.masked_fill(~known_BF[..., None], 0).transpose(1, 2)
            x_BFH = after(convolution(x_BHF).transpose(1, 2))
        return self.outer(x_BFH if self.each_row else mean_of_known(x_BFH, known_BF))


HEAD = Head(frames=True, each_row=True, build=Conv)
