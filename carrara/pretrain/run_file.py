"""`run.json`: the resolved recipe and the corpus of a run, so that only the same run is resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core import __version__
from carrara.core.errors import CarraraError, StoreError
from carrara.core.io import file_lock, write_text
from carrara.core.settings import Settings, iter_paths, parse_settings
from carrara.core.strict_json import read_json, read_json_object

if TYPE_CHECKING:
    from carrara.pretrain.corpus.build import Corpus

RUN, LOCK = "run.json", ".lock"
KEPT_IF_DISK_IS_FULL = ("targets", "labels")
MAX_PROPOSED = 3  # former values that a message has; many differ where the scale or the recipe does
# Settings that a resumed run may change, as the thesis did when a run failed [yuan2023thesis §5.3].
CHANGEABLE_SETTINGS = (
    "optimiser.learning_rate",
    "optimiser.warmup_fraction",
    "optimiser.warmup_epochs",
    "optimiser.max_grad_norm",
    "precision",
    "accumulation_steps",
    "compile",
    "checkpoint_every",
    "log_every",
    "timeout_seconds",
    "recovery.collapse_check_after",
)


@dataclass(frozen=True)
class ChangedSetting:
    """A setting, by dotted path, that a resumed run has changed."""

    setting: str
    was: Any
    now: Any


def prepare_run_file(
    folder: Path, recipe: Settings, corpus: Corpus, resume: bool, initialization: Mapping[str, Any] | None = None
) -> list[ChangedSetting]:
    """Write `run.json`, or check that an existing one has the same recipe, corpus and initial weights.

    Args:
        folder: of the run.
        recipe: resolved.
        corpus: of the run.
        resume: whether a run may exist.
        initialization: record of the initial weights (initialize.py); None or empty for random ones.

    Returns:
        The settings that the existing run had otherwise.

    Raises:
        StoreError: the folder is a file, cannot be written, holds a run and `resume` is false, or holds one of another
            recipe, corpus or initial weights.
    """
    content: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "corpus": {
            "identity": corpus.identity(),
            "files": len(corpus.items),
            "seconds": round(corpus.seconds, 1),
            "short": corpus.short,
            "unreadable": list(corpus.unreadable),
        },
        "carrara": __version__,
        **({"initialization": dict(initialization)} if initialization else {}),
    }
    path = folder / RUN
    check_folder(folder, resume)
    changes: list[ChangedSetting] = []
    if path.exists():
        changes = _check_same(path, content, type(recipe))
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return changes


def check_folder(folder: Path, resume: bool) -> None:
    """Check that a folder is none yet, or one that holds no run where none may be there.

    Raises:
        StoreError: it is a file, or holds a run and `resume` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; choose a folder with -o")
    if (folder / RUN).exists() and not resume:
        raise StoreError(f"{folder}: holds a run already; go on with --resume, or choose another folder with -o")


def _check_same(path: Path, new: Mapping[str, Any], recipe_type: type[Settings]) -> list[ChangedSetting]:
    folder = path.parent
    try:
        old = read_json_object(path, allow_nan=True)
        # Settings that an earlier version did not have get their defaults.
        old_recipe = parse_settings(recipe_type, old["recipe"], str(path)).model_dump(mode="json")
        old_corpus, new_corpus = old["corpus"], new["corpus"]
        same_corpus = old_corpus["identity"] == new_corpus["identity"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another folder with -o") from None
    new_recipe = new["recipe"]
    names = dict.fromkeys([*iter_paths(old_recipe), *iter_paths(new_recipe)])
    differing = [
        ChangedSetting(name, was, now)
        for name in names
        if (was := _value(old_recipe, name)) != (now := _value(new_recipe, name))
    ]
    refused = [change for change in differing if change.setting not in CHANGEABLE_SETTINGS]
    if refused:
        first = refused[0]
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        former = "the former settings"
        if len(refused) <= MAX_PROPOSED and not {"set", "nothing"} & {change.was for change in refused}:
            former = " ".join(
                f"--set {change.setting}={json.dumps(change.was, separators=(',', ':'))}" for change in refused
            )
        raise StoreError(
            f"{folder}: has another recipe: {first.setting} was {first.was}, now {first.now}{more}; go on with "
            f"{former}, or choose another folder with -o"
        )
    if not same_corpus:
        raise StoreError(
            f"{folder}: has another corpus: {old_corpus['files']} files of {old_corpus['seconds']} s then, "
            f"{new_corpus['files']} of {new_corpus['seconds']} s now; give the same, or choose another folder with -o"
        )
    before, now = old.get("initialization", {}), new.get("initialization", {})
    was, given = before.get("from"), now.get("from")
    if was != given:
        cure = f"give --from {was}" if was else "leave --from out"
        raise StoreError(
            f"{folder}: started from {was or 'random weights'}, not {given or 'random weights'}; {cure}, or "
            "choose another folder with -o"
        )
    if before.get("weights_sha256") != now.get("weights_sha256"):
        raise StoreError(f"{folder}: {was} had other weights when this run started; choose another folder with -o")
    return differing


def former_accumulation_steps(folder: Path) -> int | None:
    """Return the micro-batches that a run in the folder has chosen; None where it has not."""
    try:
        steps = read_json(folder / RUN)["recipe"]["accumulation_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, so that no other process trains in it.

    Raises:
        StoreError: another process does, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; choose a folder with -o")
    existed = folder.exists()
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(folder / LOCK, wait=False))
            except StoreError as problem:
                if "another process" not in str(problem):
                    raise
                raise StoreError(
                    f"{folder}: another process is training here; wait until it is done, or choose another folder with "
                    "-o"
                ) from None
            yield
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def free_folder_on_failure(folder: Path) -> Iterator[None]:
    """Remove what a start of a new run has written where it fails, so that the folder can be used again.

    A run that the folder holds already stays. Where a file cannot be written, fitted targets and labels stay too: they
    may have taken hours, and the next start goes on with them.
    """
    existed, holds_run = folder.exists(), (folder / RUN).exists()
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except CarraraError as problem:
        if not holds_run and folder.is_dir():
            kept = KEPT_IF_DISK_IS_FULL if isinstance(problem, StoreError) else ()
            for path in set(folder.iterdir()) - before:
                if path.is_dir() and path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)
                elif path.is_file():
                    path.unlink(missing_ok=True)
            if not existed and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _value(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, "nothing") if isinstance(tree, dict) else "nothing"
    return "set" if isinstance(tree, dict) else tree
