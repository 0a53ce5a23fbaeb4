"""An encoder's folder on the Hugging Face hub: weights, config, model card and log; nothing that names local files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import README, WEIGHTS, load
from carrara.encoders._hub.spec import CONFIG, check_repository
from carrara.encoders._text.tower import TOKENIZER

# The log is shown on the hub; run.json, checkpoints, labels and trackers stay, they name files of this machine.
PUSHED = (CONFIG, WEIGHTS, TOKENIZER, README, "metrics.png", "labels.json")


def push_encoder(folder: Path, repository: str, private: bool = False) -> str:
    """Upload an encoder's folder and return the address of the commit; the repository is created where it is missing.

    The folder is loaded first, so that only whole weights are uploaded. Address and token are huggingface_hub's:
    `HF_ENDPOINT`, `HF_TOKEN` or `hf auth login`.

    Args:
        folder: holds the encoder, as a training run or `carrara export --format carrara` wrote it.
        repository: org/name or user/name.
        private: whether a new repository is private.

    Raises:
        UsageError: the folder holds no encoder of Carrara, the name is none, or the hub refuses; the message says why.
        WeightsError: the weights are not whole.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder}: holds no {CONFIG}; give the folder of a training run or of `carrara export`")
    check_repository(repository)
    load(folder)
    api = HfApi()
    with hub_errors(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(PUSHED),
            commit_message=f"{folder.resolve().name}, by carrara push",
        )
    return str(commit.commit_url)


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """A context in which what goes wrong with an upload to the hub is one line with the cure.

    Raises:
        UsageError: the hub refuses the upload, or does not answer.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HfHubHTTPError as problem:
        status = problem.response.status_code if problem.response is not None else 0
        cure = "try again later"
        if status in (401, 403):
            cure = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        raise UsageError(f"{repository}: the hub refuses the upload ({_first_line(problem)}); {cure}") from None
    except HFValidationError as problem:
        raise UsageError(f"{repository}: is no repository of the hub ({_first_line(problem)})") from None
    except Exception as problem:  # the errors of its HTTP client, which changes with its version, have no common base
        raise UsageError(
            f"{repository}: cannot be uploaded ({_first_line(problem)}); check the connection and run the same command "
            "again"
        ) from None


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).partition("\n")[0][:200]
