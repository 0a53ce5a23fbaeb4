"""One layer of an encoder as an encoder of its own, so that a probe has nothing else to choose from.

Letters: B batch, T samples.
"""

from __future__ import annotations

from torch import Tensor

from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import load
from carrara.encoders._hub.reconfigure import changed
from carrara.reproduce._base import View


class OneLayer(Encoder):
    """A layer of another encoder: one row of features, under a name that says which."""

    def __init__(self, encoder: Encoder, layer: int, name: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.settings = encoder, layer, encoder.settings
        self.card = encoder.card.model_copy(update={"name": name, "num_layers": 0, "cnn_dim": None})

    def frames(self, samples: int) -> int:
        """Return how many frames that many samples give."""
        return self.encoder.frames(samples)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the layer, `[batch, 1, frames, width]`."""
        return self.encoder(samples_BT, lengths_B)[:, self.layer : self.layer + 1]


def looked_at(model: str, view: View, name: str, device: str) -> OneLayer:
    """Return what a view hears of a model; `name` is what its records call it."""
    encoder = changed(load(model, device), view.settings, f"the view {name}").to(device)
    return OneLayer(encoder, view.layer_of(encoder.card.num_layers), name)
