"""Note in the cards of trained models what they were trained on, from the data that their cards name.

Training does so by itself; this is for models that were trained before it did. Weights stay as they are, bit by bit:
only the header of the file is written again. Structures are those of the split that the card names, and the fingerprint
of the split has to be that of the card.

Run: python benchmarks/paper/cards.py --data_dir FOLDER [MODEL ...]

FOLDER, or its folders, hold the files that the recipes name; QM9 comes with qm9pack. Models are files or names, by
default all that come with the package.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pyg_schnet.data import find_property
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.models.domain import Domain, renew
from pyg_schnet.pretrained import available, find
from pyg_schnet.train import StructureDataModule
from pyg_schnet.train.evaluation import run_of
from pyg_schnet.train.files import RUN

_KEY = "pyg_schnet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=available(), help="model files or names of pretrained models")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data, or of folders of data")
    options = parser.parse_args()
    for model in options.models:
        path = find(model)
        card = read_header(path)["card"]
        domain = domain_of_run(card, data_of(card, options.data_dir))
        write_domain(path, domain)
        systems = ", ".join(f"{entry.structures:,} {name}s" for name, entry in domain.systems.items())
        print(f"{path.name}: {systems}; gradients: {domain.gradients}; {len(domain.shortest)} pairs of elements")


def data_of(card: dict[str, Any], folder: Path) -> StructureDataModule:
    """The data of a run, from the folder or one of its folders in which they are those of the card.

    Raises:
        FileNotFoundError: If they are nowhere.
    """
    given = {**card[RUN], "data": {k: v for k, v in card[RUN]["data"].items() if k != "test_dataset"}}
    if "test_dataset" in card[RUN]["data"]:
        given["data"]["num_test"] = 0
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        try:
            data, _ = run_of(cast(Any, SimpleNamespace(card=card)), given, None, str(place), 250)
        except (FileNotFoundError, ValueError):
            continue
        if data.split.fingerprint == card["split"]["fingerprint"]:
            return data
    raise FileNotFoundError(f"{folder} and its folders hold no data with fingerprint {card['split']['fingerprint']}")


def domain_of_run(card: dict[str, Any], data: StructureDataModule) -> Domain:
    """What a model was trained on; errors that it was tested for tell whether it learned stress."""
    task = card[RUN]["model"]["class_path"].rsplit(".", 1)[-1]
    names = [name for name in ("forces", "stress") if task == "PotentialTask" and name in card["test"]]
    labels = {name: find_property(data.dataset, name) for name in names}
    return data.training_domain(**labels, relaxed=task == "RelaxedTask")


def write_domain(path: Path, domain: Domain) -> None:
    """Replace what the card of a model file says of its domain; the bytes of the weights are copied."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    outer = json.loads(content[8 : 8 + size])
    header = json.loads(outer["__metadata__"][_KEY])
    card = dict(header["card"])
    renew(card, domain)
    header["card"] = {**header["card"], **card}
    outer["__metadata__"][_KEY] = json.dumps(header, ensure_ascii=False)
    text = json.dumps(outer, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the weights
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    os.replace(partial, path)


if __name__ == "__main__":
    main()
