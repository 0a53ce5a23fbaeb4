"""What a command names is looked at before torch is imported, which takes seconds: encoders, settings, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from carrara.audio.corruptions import parse_corruption
from carrara.audio.files import check_paths
from carrara.bench import protocols
from carrara.bench.config import BenchConfig
from carrara.bench.probes import heads
from carrara.core.errors import StoreError
from carrara.core.paths import encoders_home
from carrara.core.settings import change_tree
from carrara.core.storage import expand_braces
from carrara.data import REGISTRY as DATA
from carrara.encoders import REGISTRY
from carrara.encoders._hub.availability import check_is_loadable, read_published_files
from carrara.encoders._hub.spec import CONFIG, parse_encoder_spec, require_config, split_fusion
from carrara.pretrain import recipes
from carrara.pretrain.scales import check_scale


def check_encoder(spec: str, changes: Mapping[str, Any] | None = None) -> None:
    """Check an encoder's name, or of a fusion its parts', and the settings' names where it is a registered one.

    Raises:
        UsageError: nothing has that name, its weights need an import first, or there is no such setting.
    """
    if parts := split_fusion(spec):
        for part in parts:
            check_encoder(part)
        return
    parsed = parse_encoder_spec(spec)
    if parsed.kind == "folder":
        require_config(Path(parsed.source))
    elif parsed.kind == "registered":
        has_weights, files = read_published_files(REGISTRY.get_entry(parsed.source).module)
        is_imported = (encoders_home() / parsed.source / CONFIG).is_file()
        # A plug-in may list its files where only an import finds them.
        if parsed.source in files and has_weights and parsed.seed is None and not is_imported:
            check_is_loadable(parsed.source, files[parsed.source])
        check_setting_names("encoders", parsed.source, changes or {})


def check_setting_names(kind: str, name: str, changes: Mapping[str, Any], source: str = "--set") -> None:
    """Check that a registered entry has the settings that are to be changed; values are looked at with its class.

    Args:
        kind: encoders, protocols or recipes.
        name: registered name of the entry.
        changes: values by dotted path.
        source: name of the changes in the message.

    Raises:
        UsageError: there is no such setting.
    """
    if changes:
        from carrara.cli._facts import read_facts

        change_tree(read_facts(kind, [name])[name]["settings"], changes, source)


def check_bench_config(config: BenchConfig) -> None:
    """Check the names of a protocol, of its settings, of a head and of corruptions.

    Raises:
        UsageError: there is none of that name.
    """
    entry = protocols.REGISTRY.get_entry(config.protocol)
    check_setting_names("protocols", entry.name, config.settings)
    if isinstance(head := config.settings.get("head"), str):
        heads.REGISTRY.get_entry(head)
    for corruption in config.corruptions:
        parse_corruption(corruption)


def check_recipe(recipe: str, scale: str, changes: Mapping[str, Any]) -> None:
    """Check the names of a recipe, of its scale and of the settings to change.

    Raises:
        UsageError: there is none of that name.
    """
    from carrara.cli._facts import read_facts

    name = recipes.REGISTRY.get_entry(recipe).name
    check_scale(recipe, scale, read_facts("recipes", [name])[name]["scales"])
    check_setting_names("recipes", name, changes)


def check_corpus(corpus: Iterable[Path]) -> None:
    """Check that local files and folders of a corpus exist.

    Raises:
        DataError: none of them does.
    """
    local = [name for name in map(str, corpus) if ":/" not in name and name not in DATA.entries]
    if local:
        check_paths([Path(each).expanduser() for name in local for each in expand_braces(name)])


def check_output_folder(output: Path) -> None:
    """Check that an output folder is no file, nor below one.

    Raises:
        StoreError: it is.
    """
    existing = next((path for path in (output, *output.parents) if path.exists()), output)
    if existing.exists() and not existing.is_dir():
        raise StoreError(f"-o {output}: {existing} is a file or device; name a folder")
