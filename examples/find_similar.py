"""Find the recordings most like one recording: embed a folder once, then compare by cosine.

carrara embed ~/Music -e chroma-mfcc -o music.parquet
python examples/find_similar.py music.parquet ~/Music/song.mp3
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main(table_path: str, song: str) -> None:
    """Print the ten nearest recordings of a table made by `carrara embed`."""
    table = pq.read_table(table_path)
    paths = table["path"].to_pylist()
    vectors = np.stack(table["embedding"].to_numpy())
    vectors = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-9)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    here = next(i for i, path in enumerate(paths) if Path(path).resolve() == Path(song).resolve())
    for i in np.argsort(-vectors @ vectors[here])[:10]:
        print(f"{vectors[i] @ vectors[here]:.3f}  {paths[i]}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
