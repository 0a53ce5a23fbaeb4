"""A two-layer bidirectional LSTM over frames; logits for each frame, or for each example from the mean of its outputs.

[hochreiter1997], in both directions as in [graves2005]. Each direction has half of the hidden units. Padding is packed
away, so both directions start at an example's own first and last frame.

Letters: B examples, F frames of an example, D features, H hidden units, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from carrara.bench.probes.heads._base import Head, HeadShape, masked_mean

NUM_LAYERS = 2


class Lstm(nn.Module):
    """The LSTM and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.each_row = shape.each_row
        half = shape.hidden // 2
        self.lstm = nn.LSTM(
            shape.dim, half, num_layers=NUM_LAYERS, batch_first=True, dropout=shape.dropout, bidirectional=True
        )
        self.outer = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(2 * half, shape.outputs))

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return the logits of each frame, `[B, F, K]`, or of each example, `[B, K]`."""
        packed = pack_padded_sequence(x_BFD, valid_BF.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        x_BFH, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x_BFD.shape[1])
        return self.outer(x_BFH if self.each_row else masked_mean(x_BFH, valid_BF))


HEAD = Head(frames=True, each_row=True, build=Lstm)
