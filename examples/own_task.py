"""Measure encoders on a task of your own: a folder of recordings with a folder for each class.

    recordings/jazz/a.wav
    recordings/rock/b.wav

python examples/own_task.py recordings results
"""

import sys
from pathlib import Path

import carrara

TASK = """
data = "{folder}"
task_type = "multiclass"   # or multilabel, regression, beat_tracking
label = "label"            # the name of the class's folder
"""


def main(folder: str, results: str) -> None:
    """Write the task's file, measure two encoders and the floor, and print the leaderboard."""
    task_file = Path("my-task.toml")
    task_file.write_text(TASK.format(folder=Path(folder).resolve().as_posix()), encoding="utf-8")
    carrara.bench(["mfcc", "chroma", "noise"], task_file, results=results)
    board = carrara.leaderboard(results)
    print(board)
    print(board.to_frame()["average"])


if __name__ == "__main__":
    if len(sys.argv) <= 2:
        sys.exit(__doc__)
    main(*sys.argv[1:3])
