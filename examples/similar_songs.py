"""The recordings most like one of yours, and a walk from it to another, by the cosine of their embeddings.

carrara embed ~/Music -e chroma-mfcc -o music.parquet
python examples/similar_songs.py music.parquet ~/Music/song.mp3 [another song]
"""

import sys
from pathlib import Path

import carrara


def main(table: str, song: str, other: str = "") -> None:
    """Print the ten nearest recordings, and with another song six that lead from the first to it."""
    # Unscaled, the few largest numbers of hand-crafted features decide.
    nearest = carrara.find(song, table, count=10, standardise=True)
    for neighbour in nearest.to_pylist():
        print(f"{neighbour['similarity']:.3f}  {Path(neighbour['path']).name}")
    if other:
        walk = carrara.find([song, other], table, count=6, path=True, standardise=True)
        print(" → ".join(Path(path).stem for path in walk["path"].to_pylist()))


if __name__ == "__main__":
    if len(sys.argv) <= 2:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
