"""What a run will need, measured without training and without writing: audio, operations, time, memory, labels.

The network, its losses and its micro-batches are the objective's own; crops are noise, and labels that a target would
fit on a corpus are drawn at random. One crop is measured forward and backward for operations and memory, then three
micro-batches for time, unless a crop takes seconds. Time and activations are proportional to the crops. The range of
the time is two standard errors of the micro-batches together with the drift of a machine's speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.features.plan import DRIFT, Estimate
from carrara.nn.device import pick_device
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.dry_objectives import dry_objective
from carrara.pretrain.gpus import GIB, GPUS, check_gpu
from carrara.pretrain.objectives.joint_embedding import JointEmbeddingObjective
from carrara.pretrain.objectives.masked_prediction import MaskedPredictionObjective
from carrara.pretrain.objectives.tagging import TaggingObjective
from carrara.pretrain.recipes._base import Recipe, TrainingSettings, resolve
from carrara.pretrain.recipes.contrastive import ContrastiveRecipe
from carrara.pretrain.recipes.joint_embedding import JointEmbeddingRecipe
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.step_cost import USABLE, device_memory, measure_cost
from carrara.pretrain.tagging.settings import TaggingRecipe

ASSUMED_MFU = 0.3  # fraction of the peak that a training reaches; a guess, to be replaced by a measurement
MFU_RANGE = (0.15, 0.5)  # from a training that waits for its data to the best published ones; a guess too
# The first prefix that fits says which part a parameter belongs to.
PARTS: dict[type[TrainingSettings], dict[str, str]] = {
    Recipe: {
        "encoder.encoder.": "Transformer",
        "encoder.conformer.": "conformer",
        "encoder.vit.blocks.": "Transformer",
        "encoder.vit.norm.": "Transformer",
        "encoder.": "front end",
        "": "heads",
    },
    TaggingRecipe: {
        "encoder.vit.blocks.": "Transformer",
        "encoder.vit.norm.": "Transformer",
        "encoder.network.": "convolutions",
        "encoder.vit.": "front end",
        "": "heads",
    },
    CodecRecipe: {"encoder.": "encoder", "decoder.": "decoder", "": "codebooks"},
    JointEmbeddingRecipe: {"encoder.patch_embed.": "front end", "encoder.": "Transformer", "": "predictor"},
    ContrastiveRecipe: {"encoder.project.": "front end", "encoder.": "Transformer", "": "heads"},
}


def plan_run(
    recipe: str | TrainingSettings,
    corpus: Sequence[str | Path] = (),
    *,
    scale: str = "base",
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
    gpu: str = "h100",
    gpus: int = 8,
) -> dict[str, Any]:
    """Return what a run will need, in seconds, hours, bytes and floating-point operations; nothing is written.

    Args:
        recipe: name of a recipe, or a recipe.
        corpus: as for `pretrain`; empty for none: then labels on disk are given by the hour, and tags are as many as
            the network has.
        scale: one of the recipe's scales; ignored where a recipe itself is given.
        changes: settings to change, by dotted path.
        device: auto, cpu, cuda, cuda:1, mps.
        gpu, gpus: kind and number of the GPUs of a second plan.

    Raises:
        UsageError: an unknown recipe, setting, device or GPU.
        DataError: the corpus cannot be used.
    """
    check_gpu(gpu)
    resolved: Any = resolve(recipe, scale, changes) if isinstance(recipe, str) else replace(recipe, changes or {})
    torch_device = torch.device(pick_device(device))
    # A CPU computes half precision slowly; one micro-batch is one piece here, of as many crops as fit.
    precision = resolved.precision if torch_device.type == "cuda" else "float32"
    single = replace(resolved, {"precision": precision, "accumulation_steps": 1})
    if getattr(single.network, "layerdrop", 0):
        # A draw of LayerDrop would decide how many layers are measured; all are the most that a step takes.
        single = replace(single, {"network.layerdrop": 0.0})
    try:
        with torch.random.fork_rng():
            objective = dry_objective(single, torch_device, corpus)
            parameters = list(objective.module.parameters())
            trained = _num_bytes(parameter for parameter in parameters if parameter.requires_grad)
            memory = {
                "weights": _num_bytes([*parameters, *objective.module.buffers()]),
                "gradients": trained,
                "adam": 2 * trained,
                "other_networks": sum(_num_bytes(module.state_dict().values()) for module in _untrained(objective)),
            }
            measured = measure_cost(objective, resolved)
        memory["activations_per_crop"] = measured.pop("activations")
    except torch.OutOfMemoryError:
        raise UsageError(f"--device {torch_device}: does not hold the network and one crop; use --device cpu") from None
    hours = resolved.batch * resolved.crop_seconds / 3600
    flops = measured.pop("flops_per_crop") * resolved.batch
    seconds = measured.pop("seconds_per_crop") * resolved.batch + measured.pop("optimiser_seconds")
    step = Estimate.around(seconds, math.hypot(measured.pop("seconds_error"), DRIFT))
    run_hours = objective.steps / 3600
    here = _fit(resolved, memory, device_memory(torch_device), 1) | {"hours": seconds * run_hours}
    here |= {"hours_low": step.low * run_hours, "hours_high": step.high * run_hours}
    peak, capacity = GPUS[gpu]
    there = _fit(resolved, memory, capacity, gpus)
    for name, mfu in (("hours_low", MFU_RANGE[1]), ("hours", ASSUMED_MFU), ("hours_high", MFU_RANGE[0])):
        there[name] = flops * run_hours / (gpus * peak * mfu)
    return {
        "recipe": recipe if isinstance(recipe, str) else type(resolved).__name__,
        "parameters": {"total": sum(each.numel() for each in parameters), **_parts(objective)},
        "audio_hours_per_step": hours,
        "steps": objective.steps,
        "audio_hours": hours * objective.steps,
        "flops_per_step": flops,
        "seconds_per_step": seconds,
        "seconds_per_step_low": step.low,
        "seconds_per_step_high": step.high,
        "measured": {"device": str(torch_device), "precision": precision, **measured},
        "memory": memory,
        "labels": _label_size(objective, corpus),
        "this_device": {"device": str(torch_device), "count": 1, **here},
        "gpus": {"device": gpu, "count": gpus, "assumed_mfu": ASSUMED_MFU, **there},
    }


def _fit(recipe: TrainingSettings, memory: Mapping[str, int], capacity: float, devices: int) -> dict[str, Any]:
    """Return how the batch must be divided to fit devices of that memory, and the memory that each then uses.

    `accumulation_steps` is None where not even one crop fits.
    """
    fixed: float = sum(memory[name] for name in ("weights", "gradients", "adam", "other_networks"))
    if devices > 1:
        # DistributedDataParallel has buckets as large as the gradients; FSDP shards all.
        fixed = fixed / devices if recipe.fsdp else fixed + memory["gradients"]
    share = math.ceil(recipe.batch / devices)
    fitting = int((USABLE * capacity - fixed) // max(memory["activations_per_crop"], 1))
    crops = max(min(fitting, math.ceil(recipe.batch / recipe.num_micro_batches(devices)), share), 1)
    return {
        "accumulation_steps": math.ceil(share / crops) * devices if fitting >= 1 else None,
        "memory": int(fixed + crops * memory["activations_per_crop"]),
        "capacity": int(capacity),
    }


def _parts(objective: Any) -> dict[str, int]:
    prefixes = next(parts for settings, parts in PARTS.items() if isinstance(objective.recipe, settings))
    counts: dict[str, int] = {}
    for name, parameter in objective.module.named_parameters():
        part = next(part for prefix, part in prefixes.items() if name.startswith(prefix))
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def _untrained(objective: Any) -> list[nn.Module]:
    """Return the networks that are in memory beside the trained one: targets, the average, a teacher."""
    if isinstance(objective, TaggingObjective):
        return [objective.average, *([objective.teacher] if objective.teacher else [])]
    if isinstance(objective, JointEmbeddingObjective):
        return [objective.target]
    return list(objective.targets.values()) if isinstance(objective, MaskedPredictionObjective) else []


def _num_bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _label_size(objective: Any, corpus: Sequence[str | Path]) -> dict[str, float]:
    """Return the bytes of whole-file labels on disk by the hour, and of the corpus where there is one."""
    if not isinstance(objective, MaskedPredictionObjective):
        return {"bytes_per_hour": 0.0}
    grid = objective.grid
    codebooks = [
        len(target.num_classes)
        for target in objective.targets.values()
        if getattr(target.settings, "whole_files", False)
    ]
    size = {"bytes_per_hour": 2.0 * sum(codebooks) * grid.sample_rate / grid.hop * 3600}
    if corpus:
        items = build_corpus(list(corpus), grid.sample_rate, objective.stream.crop_samples)
        size |= {"corpus_hours": items.seconds / 3600, "bytes": size["bytes_per_hour"] * items.seconds / 3600}
    return size


def describe_plan(plan: Mapping[str, Any]) -> str:
    """Return a plan as lines for people."""
    total, measured, memory, labels = plan["parameters"]["total"], plan["measured"], plan["memory"], plan["labels"]
    parts = ", ".join(f"{name} {count:,}" for name, count in plan["parameters"].items() if name != "total")
    sizes = ", ".join(f"{name.replace('_', ' ')} {_round(size / GIB)}" for name, size in memory.items())
    scaled = ", scaled" if measured["crops"] == 1 else ""
    lines = [
        f"parameters\t{total:,} ({parts})",
        f"audio\t{_round(plan['audio_hours_per_step'])} hours a step, {plan['steps']:,} steps, "
        f"{_round(plan['audio_hours'])} hours",
        f"operations\t{plan['flops_per_step']:.3g} FLOPs a step",
        f"time\t{_round(plan['seconds_per_step'])} ({_round(plan['seconds_per_step_low'])} to "
        f"{_round(plan['seconds_per_step_high'])}) s a step on {measured['device']} in {measured['precision']}, from "
        f"{measured['micro_batches']} × {measured['crops']} crops{scaled}",
        f"memory in GiB\t{sizes} (in {measured['precision']})",
    ]
    if labels["bytes_per_hour"]:
        per_hour = f"{labels['bytes_per_hour'] / 1e6:.3g} MB an hour of the corpus"
        whole = f", {labels['bytes'] / 1e9:.3g} GB in all" if "bytes" in labels else ""
        lines.append(f"labels on disk\t{per_hour}{whole}")
    for key in ("this_device", "gpus"):
        device = plan[key]
        name = f"{device['count']} x {device['device']}"
        fit = f"accumulation_steps={device['accumulation_steps']}, {_round(device['memory'] / GIB)}"
        if device["accumulation_steps"] is None:
            cure = "activation_checkpointing=true or fsdp=true may help"
            fit = f"one crop does not fit, {cure}: {_round(device['memory'] / GIB)}"
        assumed = ""
        if "assumed_mfu" in device:
            assumed = f" at an assumed MFU of {device['assumed_mfu']:.0%} ({MFU_RANGE[1]:.0%} to {MFU_RANGE[0]:.0%})"
        days = f" ({_round(device['hours'] / 24)} days)" if device["hours"] > 24 else ""
        lines.append(
            f"{name}\t{_round(device['hours'])} ({_round(device['hours_low'])} to {_round(device['hours_high'])}) hours"
            f"{days}{assumed}; {fit} of {device['capacity'] / GIB:.0f} GiB each"
        )
    return "\n".join(lines)


def _round(number: float) -> str:
    """Return a number with three significant digits, and commas between the thousands."""
    return f"{float(f'{number:.3g}'):,.10g}"
