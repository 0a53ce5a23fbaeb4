"""Find the recordings most like one recording.

carrara embed ~/Music -e chroma-mfcc -o music.parquet
python examples/find_similar.py music.parquet ~/Music/song.mp3
"""

import sys

import carrara


def main(library: str, song: str) -> None:
    """Print the ten nearest recordings of a table or an index, with each dimension standardised over the library."""
    for item in carrara.find(song, library, count=10, standardise=True).to_pylist():
        print(f"{item['similarity']:.3f}  {item['path']}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
