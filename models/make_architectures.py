"""Write ``architectures.json``: every architecture of the installed timm, and what ftx supports of it.

The table that ftx carries is what this script writes when called without arguments; make it anew where timm or the
family table (``ftx.backbones.layer_roles``) changed. Models are built on the meta device, which holds shapes alone: the
largest of them would not fit into memory otherwise.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ftx.backbones.build import takes_other_sizes
from ftx.backbones.layer_roles import depth, head_names, pretrained_config, sites
from ftx.core.shipped_files import architecture_table
from ftx.recipe.adapter_targets import TARGETS


def built(architecture: str) -> Any:
    """The model without a head, of shapes alone where that is possible."""
    try:
        with torch.device("meta"):
            return timm.create_model(architecture, num_classes=0)
    except NotImplementedError:  # efficientformer reads the values of a tensor while it is built
        return timm.create_model(architecture, num_classes=0)


def classifies(module: Any) -> bool:
    """Whether the model takes a head and answers one image with its logits; changes the model."""
    device = next(module.parameters()).device
    _, height, width = pretrained_config(module)["input_size"]
    try:
        with device, torch.inference_mode():
            module.reset_classifier(2)
            heads = [module.get_submodule(name) for name in head_names(module)]
            logits = module.eval()(torch.zeros(1, 3, height, width))
    except (AttributeError, TypeError):  # encoders of language models, which end in tokens
        return False
    return all(list(head.parameters()) for head in heads) and tuple(getattr(logits, "shape", ())) == (1, 2)


def row(architecture: str, tags: dict[str, str | None]) -> dict[str, object]:
    """One line of the table."""
    module: nn.Module = built(architecture)
    config = pretrained_config(module)
    found = sites(module) if config.get("classifier") else []  # encoders of language models name none
    layers = Counter(target for site in found for target in site.rows)
    return {
        "architecture": architecture,
        "family": timm.model_entrypoint(architecture).__module__.rpartition(".")[2],
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "input_size": config["input_size"],
        "any_size": takes_other_sizes(module),
        "blocks": depth(module) if found else 0,
        "adapted": len(found),
        "layers": {target: layers[target] for target in TARGETS if target in layers},
        "classifier": classifies(module),
        "pretrained": tags,
    }


def pretrained_tags() -> dict[str, dict[str, str | None]]:
    """Architecture -> the tags of its published weights, timm's default first -> their licence, where timm knows it."""
    found: dict[str, dict[str, str | None]] = {}
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        license_ = timm.get_pretrained_cfg(name).license
        found.setdefault(architecture, {})[tag] = None if license_ == "unknown" else license_
    for architecture, tags in found.items():
        default = timm.get_pretrained_cfg(architecture).tag or ""
        found[architecture] = {tag: tags[tag] for tag in sorted(tags, key=lambda tag: (tag != default, tag))}
    return found


def text(rows: Iterable[dict[str, object]]) -> str:
    """JSON with one line an architecture, so that a new timm shows as the lines that changed."""
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in rows)
    return f'{{"timm": "{timm.__version__}", "architectures": [\n{lines}\n]}}\n'


def main() -> None:
    """Build each architecture, count its layers, write."""
    parser = argparse.ArgumentParser(description="Write what ftx supports of every architecture of the installed timm.")
    parser.add_argument("--out", type=Path, default=architecture_table(), help="(%(default)s)")
    out: Path = parser.parse_args().out
    warnings.simplefilter("ignore")  # timm's on mappings that it gave up
    tags = pretrained_tags()
    rows = [row(name, tags.get(name, {})) for name in timm.list_models()]
    out.write_text(text(rows), encoding="utf-8")
    print(f"{out}: {len(rows)} architectures of timm {timm.__version__}")


if __name__ == "__main__":
    main()
