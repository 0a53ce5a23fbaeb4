"""HookTheory: clips of songs with their key and their section, as MARBLE v2 lists them [donahue2022].

    hooktheory/                                     or HookTheory
      HookTheoryKey.{train,val,test}.jsonl          audio_path, ori_uid, label ("D major"), duration, …
      HookTheoryStructure.{train,val,test}.jsonl    audio_path, ori_uid, label (["chorus"]), duration, …
      hooktheory_clips/<id>.mp3

The lists are MARBLE v2's, one JSON object a line; of `audio_path` the file's name counts. Either kind of lists may be
missing.

Labels: `key`, one of GiantSteps' 24, and `section`, one of intro, verse, pre-chorus, chorus, bridge, outro, inst. Two
written sections in a clip count as v2 counts them: verse and pre-chorus as verse, those with a chorus as chorus, intro
and verse as verse. Split schemes: `key`, without clips in another mode than major and minor, as v2 leaves them out,
and `structure`. The group is the recording, `ori_uid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.core.strict_json import parse_json_object
from carrara.data._base import Dataset
from carrara.data._tables import read_text, split_lines
from carrara.data.giantsteps import KEYS

LISTS: dict[Split, str] = {"train": "train", "valid": "val", "test": "test"}
KINDS = {"key": "HookTheoryKey", "structure": "HookTheoryStructure"}
SECTIONS = ("intro", "verse", "pre-chorus", "chorus", "bridge", "outro", "inst")
WRITTEN = {
    **dict(zip(SECTIONS, SECTIONS)), "instrumental": "inst", "solo": "inst", "pre-chorus_chorus": "chorus",
    "verse_pre-chorus": "verse", "intro_verse": "verse", "intro_chorus": "chorus",
}  # fmt: skip
CURE = "`hf download m-a-p/HookTheory --repo-type dataset --local-dir hooktheory` has it"


class HookTheory(Dataset):
    """The clips with key and section; the layout and splits are in the module's docstring."""

    name = "hooktheory"
    folder_names = ("HookTheory",)
    title = "HookTheory"
    license = "audio: commercial recordings, no licence; annotations: CC BY-NC-SA 3.0 (HookTheory)"
    commercial_use = False
    citation = "Donahue, Thickstun, Liang: Melody Transcription via Generative Pre-Training, ISMIR 2022"
    source = "https://huggingface.co/datasets/m-a-p/HookTheory (MARBLE v2's lists and clips)"
    manual_steps = (
        "1. hf download m-a-p/HookTheory --repo-type dataset --local-dir hooktheory, in the folder of the datasets\n"
        "2. Run its extract.sh, so that there is hooktheory/hooktheory_clips/*.mp3\n"
        "3. carrara check hooktheory"
    )
    group_names: ClassVar[Mapping[str, str]] = {"key": "recording", "structure": "recording"}

    def index(self, root: Path) -> list[Clip]:
        """Return the clips of the lists, in their order; see the base class."""
        clips: dict[str, Clip] = {}
        for clip in (clip for lists in _read_kinds(Path(root)).values() for own in lists.values() for clip in own):
            clips.setdefault(clip.id, clip).labels.update(clip.labels)
        return list(clips.values())

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each clip; see the base class."""
        label = {"key": "key", "structure": "section"}
        return {
            kind: {clip.id: split for split, clips in lists.items() for clip in clips if label[kind] in clip.labels}
            for kind, lists in _read_kinds(Path(root)).items()
        }


def _read_kinds(root: Path) -> dict[str, dict[Split, list[Clip]]]:
    kinds = {kind: name for kind, name in KINDS.items() if (root / f"{name}.train.jsonl").is_file()}
    if not kinds:
        raise DataError(f"{root}: neither HookTheoryKey.train.jsonl nor HookTheoryStructure.train.jsonl; {CURE}")
    return {
        kind: {split: _read_list(root, kind, f"{name}.{part}.jsonl") for split, part in LISTS.items()}
        for kind, name in kinds.items()
    }


def _read_list(root: Path, kind: str, name: str) -> list[Clip]:
    clips: dict[str, Clip] = {}
    for number, line in enumerate(split_lines(read_text(root / name, CURE)), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json_object(line.encode())
            file, uid, label = Path(str(entry["audio_path"])).name, str(entry["ori_uid"]), entry["label"]
        except (ValueError, KeyError) as problem:
            reason = f"lacks {problem}" if isinstance(problem, KeyError) else str(problem)
            raise DataError(
                f"{root / name}, line {number}: not a clip with audio_path, ori_uid and label ({reason})"
            ) from None
        labels: dict[str, Any] = {}
        if kind == "key":
            labels = {"key": label} if label in KEYS else {}
        else:
            written = "_".join(map(str, label)) if isinstance(label, list) else str(label)
            if written not in WRITTEN:
                raise DataError(
                    f"{root / name}, line {number}: the section {written[:40]!r} is none of {', '.join(WRITTEN)}"
                )
            labels = {"section": WRITTEN[written]}
        id = Path(file).stem
        if id in clips:
            raise DataError(f"{root / name}, line {number}: {id} is in the list twice")
        clips[id] = Clip(id=id, path=root / "hooktheory_clips" / file, group=uid, labels=labels)
    return list(clips.values())


DATASET = HookTheory()
