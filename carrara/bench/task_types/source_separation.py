"""Source separation: the stems of a mixture, scored by the global SDR in dB.

No probe on pooled features can predict stems, so the constrained, linear and semi-constrained protocols train
separation heads (`carrara/bench/separation`) and all other protocols refuse the task. The reference stems are audio; a
truth is the song's id, and a prediction the SDR of each stem's estimate, `{"sdr_vocals": 4.2, …}`, because no song is
held in memory. Metrics: `sdr_<stem>`, the mean over songs, and `sdr`, the mean over the task's stems, which validation
monitors. Intervals resample songs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrara.bench.task_types._base import TaskType, requested_metrics
from carrara.core.clip import Clip
from carrara.core.task import Task


class _SourceSeparation(TaskType):
    frame_level = True
    unit = "track"
    scale = "dB"
    reads_features = False

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return ("sdr", *(f"sdr_{stem}" for stem in task.labels))

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[str]:
        return [clip.id for clip in clips]

    def metrics(
        self, task: Task, truths: Sequence[str], predictions: Sequence[Mapping[str, float]]
    ) -> dict[str, float]:
        """Return the mean SDR over songs in dB, by metric."""
        names = [f"sdr_{stem}" for stem in task.labels]
        values = {name: sum(sdr[name] for sdr in predictions) / len(predictions) for name in names}
        values["sdr"] = sum(values.values()) / len(names)
        return {name: values[name] for name in requested_metrics(task)}


TASK_TYPE = _SourceSeparation()
