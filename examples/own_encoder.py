"""Measure an encoder of your own: any network or function from samples to features.

carrara download pebble --size tiny --data-dir data
python examples/own_encoder.py data/pebble/tiny results
"""

import sys

import torch

import carrara


class Spectrogram(torch.nn.Module):
    """Log power in 64 bands of equal width, a frame for each 64 ms."""

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features.

        Args:
            samples: `[batch, samples]`.
            lengths: of each clip, in samples; the rest of its row is padding.

        Returns:
            `[batch, layers = 1, frames, dim = 64]`
        """
        window = torch.hann_window(1024)  # frames neither overlap nor cross a clip's ends, so padding changes none
        power = torch.stft(samples, 1024, 1024, window=window, center=False, return_complex=True).abs().square()
        bands = power[:, :512].unflatten(1, (64, 8)).mean(2)
        return torch.log1p(bands).transpose(1, 2)[:, None]


def main(data_dir: str, results: str) -> None:
    """Measure it beside MFCC and the floor, and print the leaderboard."""
    tasks = ["pebble/genre", "pebble/instrument"]
    carrara.bench(Spectrogram(), tasks, data_dir, results, sample_rate=16_000)
    carrara.bench(["mfcc", "noise"], tasks, data_dir, results)
    print(carrara.leaderboard(results))


if __name__ == "__main__":
    if len(sys.argv) <= 2:
        sys.exit(__doc__)
    main(*sys.argv[1:3])
