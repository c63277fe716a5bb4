"""Fetch the images of Stamps from five Debian packages (about 325 MB; 20 MB of it are kept).

    python benchmarks/stamps/fetch.py                 # into benchmarks/stamps/downloads
    python benchmarks/stamps/fetch.py --to FOLDER

Needs apt-get and dpkg, but not root: the packages are unpacked, not installed. Keeps only the files that the lists name
and each package's copyright file, and checks them. What is already there is not fetched again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sources import DOWNLOADS, PACKAGES, Sources, faults, path_of, read_sources


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=DOWNLOADS, metavar="FOLDER", help="folder for the images")
    folder = parser.parse_args().to.resolve()
    sources = read_sources()
    for number, package in enumerate(PACKAGES, 1):
        print(f"[{number}/{len(PACKAGES)}] {package}: ", end="", flush=True)
        of_package = only(sources, package)
        if not faults(of_package, folder):
            print("already there", flush=True)
            continue
        print("fetching and unpacking ...", flush=True)
        problem = fetch(package, of_package, folder)
        if problem:
            print(f"\n{problem}", file=sys.stderr)
            return 1
    found = faults(sources, folder)
    if found:
        head = f"\n{len(found)} files are not those that the benchmark was made with:"
        print(head, *found, sep="\n  ", file=sys.stderr)
        versions = ", ".join(f"{package}={PACKAGES[package]}" for package in {line.split(": ")[1] for line in found})
        print(
            f"The lists were made with {versions} (Debian 12). Your distribution offers other versions: fetch on "
            "Debian 12, a container will do, and copy the folder.",
            file=sys.stderr,
        )
        return 1
    print(f"{len(sources.cutouts)} cut-outs and {len(sources.photographs)} photographs are in {folder}, as expected")
    return 0


def only(sources: Sources, package: str) -> Sources:
    return Sources(
        [cutout for cutout in sources.cutouts if cutout.package == package],
        [photograph for photograph in sources.photographs if photograph.package == package],
    )


def fetch(package: str, sources: Sources, folder: Path) -> str | None:
    """Download and unpack one package and keep the files named; returns what went wrong, if anything did."""
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        return (
            f"This needs {' and '.join(missing)}, which Debian and its derivatives have. Elsewhere: run it in a "
            f"container of Debian 12, or unpack these by hand, each into a folder of its name in {folder}:\n  "
            + "\n  ".join(f"{name} {version}" for name, version in PACKAGES.items())
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="unpacking-") as temporary:
        download = subprocess.run(
            ["apt-get", "-q", "download", package], cwd=temporary, capture_output=True, text=True, errors="replace"
        )
        archives = list(Path(temporary).glob("*.deb"))
        if download.returncode or not archives:
            return (
                f"apt-get could not download {package}:\n{download.stderr.strip() or download.stdout.strip()}\n"
                "Run `apt-get update` as root and try again. If the package is unknown even then, this is not Debian "
                "12 or a close relative: fetch there, in a container for instance, and copy the folder."
            )
        unpacked = Path(temporary) / "unpacked"
        unpack = subprocess.run(["dpkg", "-x", archives[0], unpacked], capture_output=True, text=True, errors="replace")
        if unpack.returncode:
            return f"dpkg could not unpack {archives[0].name}:\n{unpack.stderr.strip()}\nIs the disk full?"
        keep(unpacked / "usr/share/doc" / package / "copyright", folder / package / "copyright")
        for source in sources.files():
            keep(unpacked / source.path, path_of(source, folder))
    return None


def keep(unpacked: Path, target: Path) -> None:
    if unpacked.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(unpacked, target)


if __name__ == "__main__":
    sys.exit(main())
