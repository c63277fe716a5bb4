"""Train the second look on the digits that comes with the package, and store it without the backbone's weights.

    python benchmarks/digits_model.py    # two commands of README's first result: some minutes on two cores

What it writes, `aimwrap.demo.load_second_look()` loads.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from aimwrap._files import checksum
from aimwrap.demo.trained import FOLDER

COMMANDS = (
    "aimwrap data digits digits95 --tie 0.95",
    "aimwrap train built digits95 --preset ours-frozen --backbone aimwrap.demo.backbone:load_pretrained_backbone "
    "--image-size 160 --crop 1 --epochs 8 --second-look --out run",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            subprocess.run(command.split(), cwd=folder, check=True)
        without_backbone(Path(folder, "run", "seed-0", "second-look"), FOLDER)
    print(f"{FOLDER}: {sum(file.stat().st_size for file in FOLDER.iterdir()) / 1e6:.2f} MB")


def without_backbone(saved: Path, into: Path) -> None:
    """Copy a saved model's config and weights, but not the backbone's, which is frozen and comes with a pip package."""
    into.mkdir(exist_ok=True)
    weights = load_file(saved / "model.safetensors")
    own = {name: tensor for name, tensor in weights.items() if not name.startswith("first.backbone.")}
    save_file(own, into / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    path = into / "model.safetensors"
    config["weights"] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
