"""Verify official files and datasets against what is known of them: hashes, counts, reference outputs.

Most encoders were written without their authors' weights at hand, and no dataset but Pebble was. `carrara verify` is
what anyone who has them runs once: it reads the official files, checks their SHA-256 where it is known and states it
where it is not, that every tensor finds its place and is finite, that the number of parameters is the card's, and that
a fixed sound gives the outputs in `carrara/reference_outputs/NAME.json` where these were recorded from real weights. Of
a dataset it runs `carrara check`. The report is meant to be pasted into an issue; nothing is sent anywhere.

Letters: T samples, L layers, F frames, D dims, S sampled dims.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from carrara.core import __version__
from carrara.core.download import is_in_hub_cache
from carrara.core.errors import CarraraError, DataError, UsageError, did_you_mean
from carrara.core.hashing import sha256_of_file
from carrara.core.paths import encoders_home
from carrara.core.strict_json import read_json
from carrara.data import REGISTRY as DATASETS
from carrara.data._base import Dataset
from carrara.encoders import REGISTRY as ENCODERS
from carrara.encoders._hub.availability import is_on_hub, read_published_files, split_hub_address

if TYPE_CHECKING:
    from carrara.encoders._base import Encoder, EncoderFamily

Status = Literal["passed", "failed", "recorded", "not at hand"]
REFERENCES = Path(__file__).with_name("reference_outputs")
SECONDS, SAMPLED_DIMS = 4.0, 48
TOLERANCE = 1e-4  # relative to the largest value of the layer; decoders and BLAS differ by less
MAX_FAULTS = 5


@dataclass(frozen=True)
class Check:
    """One check with its result; `recorded` states a fact for which nothing to compare with is known."""

    check: str
    status: Status
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """The checks of one encoder or dataset, and for an encoder its outputs for the fixed sound."""

    name: str
    kind: Literal["encoder", "dataset"]
    checks: list[Check]
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Return `failed` if a check failed, `not at hand` if there was nothing to check, else `passed`."""
        statuses = {check.status for check in self.checks}
        return "failed" if "failed" in statuses else "not at hand" if "not at hand" in statuses else "passed"


def fixed_sound(sample_rate: int) -> np.ndarray:
    """Return 4 s of a closed form at a sample rate, `[T]`: a chord with a tremolo, a chirp and clicks."""
    time = np.arange(round(SECONDS * sample_rate)) / sample_rate
    chord = sum(np.sin(2 * np.pi * hz * time) / (index + 1) for index, hz in enumerate((220.0, 277.2, 329.6, 880.0)))
    tremolo = 0.6 + 0.4 * np.sin(2 * np.pi * 3.0 * time)
    chirp = np.sin(2 * np.pi * (100 * time + 250 * time**2))
    clicks = np.exp(-200 * (time % 0.5))
    return (0.15 * chord * tremolo + 0.15 * chirp + 0.2 * clicks * np.cos(2 * np.pi * 1500 * time)).astype(np.float32)


def reference_outputs(encoder: Encoder) -> dict[str, Any]:
    """Return what an encoder gives for the fixed sound: by layer the mean over frames at evenly spaced dims, and norms.

    Numbers are rounded to seven digits.
    """
    import torch

    samples_1T = torch.from_numpy(fixed_sound(encoder.card.sample_rate))[None]
    with torch.inference_mode():
        layers_LFD = encoder.eval()(samples_1T)[0].double().numpy()
    mean_LD = layers_LFD.mean(1)
    dims_S = np.unique(np.linspace(0, mean_LD.shape[1] - 1, SAMPLED_DIMS).round().astype(int))

    def digits(values: np.ndarray) -> list[float]:
        return [float(f"{value:.7g}") for value in values]

    return {
        "shape": list(layers_LFD.shape),
        "dims": dims_S.tolist(),
        "layers": [
            {"mean": digits(mean_D[dims_S]), "norm": digits(np.array([np.linalg.norm(mean_D)]))[0]}
            for mean_D in mean_LD
        ],
    }


def compare_outputs(outputs: dict[str, Any], reference: dict[str, Any]) -> float:
    """Return the largest difference of a layer's sampled means and norm, relative to the reference's largest value.

    Outputs of another shape differ by infinity.
    """
    if any(outputs[key] != reference[key] for key in ("shape", "dims")):
        return float("inf")
    differences = []
    for own, expected in zip(outputs["layers"], reference["layers"], strict=True):
        values, known = (np.array([*layer["mean"], layer["norm"]]) for layer in (own, expected))
        differences.append(float(np.abs(values - known)[:-1].max() / max(np.abs(known[:-1]).max(), 1e-12)))
        differences.append(float(abs(values[-1] - known[-1]) / max(abs(known[-1]), 1e-12)))
    return max(differences)


def verify(
    name: str, file: Path | None = None, data_dir: Path | None = None, allow_download: bool = True
) -> list[Verification]:
    """Return the verification of an encoder, of a dataset, or of `all`.

    Args:
        name: a registered encoder or dataset; `all` is every encoder with published weights and every dataset.
        file: the official file or folder of an encoder, instead of a download.
        data_dir: folder of the datasets. None means `$CARRARA_DATA`.
        allow_download: whether official files that are not on this machine are fetched.

    Raises:
        UsageError: there is no such name, or a file is given that belongs to no single encoder.
    """
    key = name.strip().replace("_", "-")
    if file is not None and not Path(file).expanduser().exists():
        raise UsageError(f"--file {file}: does not exist")
    if key == "all" and file is None:
        encoders = [each for each in ENCODERS.names() if read_published_files(ENCODERS.get_entry(each).module)[1]]
        published = [each for each in encoders if ENCODERS.get(each).variants[each][0].files]
        found = [verify_encoder(each, None, allow_download) for each in published]
        return [
            *found,
            *(verify_dataset(DATASETS.get(each), data_dir) for each in DATASETS.names() if each != "folder"),
        ]
    if key in ENCODERS.entries:
        return [verify_encoder(ENCODERS.get_entry(key).name, file, allow_download)]
    if file is not None:
        raise UsageError(f"--file {file}: belongs to one encoder; give its name instead of {name}")
    if key in DATASETS.entries:
        return [verify_dataset(DATASETS.get(key), data_dir)]
    known = [*ENCODERS.names(), *DATASETS.names(), "all"]
    raise UsageError(
        f"there is no encoder or dataset {name!r}.{did_you_mean(key, known)} `carrara ls encoders` and "
        "`carrara ls data` show all."
    )


def verify_encoder(name: str, file: Path | None = None, allow_download: bool = True) -> Verification:
    """Return the verification of an encoder with its official files, or of one that needs none."""
    from carrara.encoders._hub.load import load
    from carrara.encoders._hub.official import convert_official, fetch_official

    family: EncoderFamily = ENCODERS.get(name)
    card = family.variants[name][0]
    checks: list[Check] = []
    try:
        is_imported = (encoders_home() / name / "config.json").is_file()
        if not family.has_weights:
            encoder = load(name)
        elif file is None and is_imported and not _is_at_hand(name, card.files):
            encoder = load(name)
            checks.append(
                Check("files", "recorded", "converted by `carrara import` before; --file checks the hash too")
            )
        else:
            if file is None and not allow_download and not _is_at_hand(name, card.files):
                reason = f"{', '.join(card.files) or 'no weights are published'}"
                return Verification(name, "encoder", [Check("files", "not at hand", reason)])
            path = Path(file).expanduser() if file else fetch_official(name)
            checks += _check_hashes(path, card.files)
            encoder = convert_official(name, path)
            count = sum(parameter.numel() for parameter in encoder.parameters())
            checks.append(Check("tensors", "passed", f"{len(encoder.state_dict())} tensors of the file, all finite"))
            if card.parameters:
                status: Status = "passed" if count == card.parameters else "failed"
                checks.append(Check("parameters", status, f"{count:,}, the card says {card.parameters:,}"))
    except CarraraError as problem:
        # What cannot be fetched is not at hand; what was read and is wrong has failed.
        is_absent = file is None and not checks and isinstance(problem, UsageError | DataError)
        checks.append(Check("files", "not at hand" if is_absent else "failed", str(problem)))
        return Verification(name, "encoder", checks)
    outputs = reference_outputs(encoder)
    checks.append(_check_outputs(name, outputs))
    return Verification(name, "encoder", checks, outputs)


def verify_dataset(dataset: Dataset, data_dir: Path | None = None) -> Verification:
    """Return the verification of a dataset on disk."""
    root = dataset.root(data_dir)
    if not root.is_dir():
        return Verification(dataset.name, "dataset", [Check("files", "not at hand", f"{root} does not exist")])
    try:
        report = dataset.check(root)
    except CarraraError as problem:
        return Verification(dataset.name, "dataset", [Check("files", "failed", str(problem))])
    faults = {
        "missing": report.missing,
        "unreadable": [*report.unreadable.values()],
        "wrong length": [*report.wrong_length],
        "count differs": report.differing,
        "leaks": [leak.group for leak in report.leaks],
    }
    checks = [Check("clips", "passed" if report.found else "failed", f"{report.found:,} found")]
    for kind, items in faults.items():
        names = ", ".join(map(str, list(items)[:MAX_FAULTS])) + (", …" if len(items) > MAX_FAULTS else "")
        checks.append(Check(kind, "failed" if items else "passed", f"{len(items)}: {names}" if items else "0"))
    checks += [
        Check(f"clips of {scheme}", "recorded", ", ".join(f"{split} {count:,}" for split, count in counts.items()))
        for scheme, counts in report.counts.items()
    ]
    return Verification(dataset.name, "dataset", checks)


def render_verifications(verifications: Iterable[Verification], as_json: bool = False) -> str:
    """Return the report with this machine's versions, as lines to paste into an issue or as JSON."""
    versions = {
        "carrara": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    verifications = list(verifications)
    if as_json:
        items = [{**asdict(each), "status": each.status} for each in verifications]
        return json.dumps({"versions": versions, "verified": items}, indent=1, ensure_ascii=False)
    lines = ["carrara verify: " + ", ".join(f"{name} {value}" for name, value in versions.items())]
    for each in verifications:
        if each.status == "not at hand":
            lines.append(f"{each.name}: not at hand ({each.checks[-1].detail})")
            continue
        lines.append(f"{each.name} ({each.kind}): {each.status}")
        lines += [f"  {check.status:8} {check.check}: {check.detail}" for check in each.checks]
    return "\n".join(lines)


def write_reference(name: str, file: Path, folder: Path = REFERENCES) -> Path:
    """Write the reference outputs of an encoder with real weights, and return the file.

    Args:
        name: of a registered encoder.
        file: its official file.
        folder: of the references.
    """
    from carrara.encoders._hub.official import convert_official

    encoder = convert_official(name, file)
    values = {
        "file": file.name,
        "sha256": sha256_of_file(file),
        "written_with": {"carrara": __version__, "torch": version("torch"), "date": f"{datetime.now(UTC):%Y-%m-%d}"},
        **reference_outputs(encoder),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values) + "\n", encoding="utf-8")
    return path


def _is_at_hand(name: str, files: dict[str, str]) -> bool:
    if any(not is_on_hub(address) for address in files):
        from carrara.encoders._hub.official import download_paths

        return all(path.is_file() for path in download_paths(name))
    return bool(files) and all(is_in_hub_cache(*split_hub_address(address)) for address in files)


def _check_hashes(path: Path, files: dict[str, str]) -> list[Check]:
    """Return a check of each official file below a path: its SHA-256 against the known one, else the hash as a fact."""
    checks = []
    by_name = {address.rpartition("/")[2]: sha256 for address, sha256 in files.items()}
    found = [path] if path.is_file() else [path / name for name in by_name if (path / name).is_file()]
    for each in found:
        # A single file may have another name than the official one.
        known = by_name.get(each.name) or (next(iter(by_name.values()), "") if len(by_name) == 1 else "")
        own = sha256_of_file(each)
        status: Status = "recorded" if not known else "passed" if own == known else "failed"
        checks.append(
            Check(f"SHA-256 of {each.name}", status, own if own == known or not known else f"{own}, not {known}")
        )
    return checks


def _check_outputs(name: str, outputs: dict[str, Any]) -> Check:
    path = REFERENCES / f"{name}.json"
    if not path.is_file():
        digest = ", ".join(f"{layer['norm']:.6g}" for layer in outputs["layers"][:4])
        more = ", …" if len(outputs["layers"]) > 4 else ""
        return Check(
            "outputs", "recorded", f"no reference yet; norms by layer {digest}{more}: `--json` has them all for one"
        )
    reference = read_json(path)
    difference = compare_outputs(outputs, reference)
    status: Status = "passed" if difference <= TOLERANCE else "failed"
    return Check("outputs", status, f"differ by {difference:.1e} of the largest value; {TOLERANCE:g} is allowed")
