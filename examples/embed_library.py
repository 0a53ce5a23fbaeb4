"""Embed a folder of recordings, and look at the table.

python examples/embed_library.py ~/Music music.parquet [encoder]
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import carrara


def main(folder: str, output: str, encoder: str = "chroma-mfcc") -> None:
    """Write a row for each recording: path, start, duration in seconds, layer, embedding."""
    table = carrara.embed(Path(folder).expanduser(), encoder)
    pq.write_table(table, output)
    embeddings = np.stack(table["embedding"].to_numpy())
    print(f"{output}: {len(table)} recordings, {embeddings.shape[1]} numbers each")
    print(f"{sum(table['duration'].to_pylist()) / 60:.1f} minutes of music")


if __name__ == "__main__":
    if len(sys.argv) <= 2:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
