"""Install a wheel into fresh environments, and train with it by the plain example: `make wheel`.

    python tests/check_wheel.py dist/aimwrap-0.2.0-py3-none-any.whl

Once on the lowest versions of the core's dependencies that the wheel allows, once on the newest. Not a test module: it
downloads PyTorch twice. Needs uv, since pip only ever takes the newest version.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_plain_pytorch.py"
SMALLER = {  # as tests/test_examples.py runs it: nothing downloaded, two epochs
    '"convnext_tiny", pretrained=True': '"resnet10t"',
    "EPOCHS, ANNEAL_EPOCHS = 20, 6": "EPOCHS, ANNEAL_EPOCHS = 2, 1",
}
PICTURES = """
import pathlib, sys
from PIL import Image
for split in ("train", "val"):
    for name, colour in (("cats", "red"), ("dogs", "blue")):
        folder = pathlib.Path(sys.argv[1], split, name)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (80, 64), colour).save(folder / f"{number}.png")
"""
VERSIONS = """
import aimwrap, importlib.metadata as metadata, sys
where = aimwrap.__file__
assert where.startswith(sys.prefix), f"not the wheel's: {where}"
print({name: metadata.version(name) for name in ("aimwrap", "torch", "torchvision", "timm", "einops")})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--resolution", choices=["lowest", "newest"], help="only one of the two")
    arguments = parser.parse_args()
    for resolution in [arguments.resolution] if arguments.resolution else ["lowest", "newest"]:
        with tempfile.TemporaryDirectory() as folder:
            check(arguments.wheel.resolve(), resolution, Path(folder))


def check(wheel: Path, resolution: str, folder: Path) -> None:
    print(f"\n--- {wheel.name} on the {resolution} dependencies ---", flush=True)
    venv.create(folder / "environment")
    python = folder / "environment" / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    if resolution == "lowest":  # which only holds for what is named, so the wheel's own requirements are
        install += ["--resolution", "lowest-direct", *core_requirements(wheel)]
    run([*install, str(wheel)], folder)
    run([python, "-c", VERSIONS], folder)
    run([python, "-c", PICTURES, "data"], folder)
    source = EXAMPLE.read_text()
    for old, new in SMALLER.items():
        assert old in source, f"{EXAMPLE.name} no longer holds {old}"
        source = source.replace(old, new)
    (folder / "example.py").write_text(source)
    run([python, "example.py", "data"], folder)
    assert (folder / "aim.pt").exists()


def core_requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return [requirement for requirement in metadata.get_all("Requires-Dist", []) if "extra ==" not in requirement]


def run(command: list[str | Path], folder: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(part) for part in command], cwd=folder, env=outside, check=True)


if __name__ == "__main__":
    main()
