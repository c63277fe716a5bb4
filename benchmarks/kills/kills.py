"""Kill commands at random moments, run them again, and compare what they leave with an undisturbed run.

    python benchmarks/kills/kills.py                     # 100 kills, and the table
    python benchmarks/kills/kills.py --jobs 2 --seed 1   # two trials at a time, other ones
    python benchmarks/kills/kills.py --trial 0-save-17   # one trial again, by its name

README.md, next to this file, says what a trial does and what counts as what.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import importlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

# What the commands import, so that a fork has it.
import aimwrap.cli
import aimwrap.data.builder
import aimwrap.export
import aimwrap.report.html
import aimwrap.train
from aimwrap import AIM, Preprocessing

REFUSED = ("is writing", "with other settings", "with other arguments")  # one of two on a folder may be refused
GONE = 20  # seconds after which no process of a killed command may be there any more
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "fcntl.lockf", "shutil.rmtree"}


# ---- The commands ---------------------------------------------------------------------------------------------------


def make_sources(folder: Path) -> None:
    """Cut-outs of two classes and photographs of two places: noise, with a colour for each."""
    rng = np.random.default_rng(0)
    for number, (kind, name) in enumerate(
        (("cutouts", "round"), ("cutouts", "square"), ("places", "red"), ("places", "blue"))
    ):
        (folder / kind / name).mkdir(parents=True)
        for picture in range(16):
            pixels = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
            pixels[..., number % 2] //= 4
            pixels[..., 3] = 0
            pixels[16:48, 16:48, 3] = 255
            image = Image.fromarray(pixels) if kind == "cutouts" else Image.fromarray(pixels[..., :3])
            image.save(folder / kind / name / f"{picture}.png")


class Net(nn.Module):
    """Three strided convolutions and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 8, 8)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.GELU()) for before, after in itertools.pairwise(widths)
        )
        self.fc = nn.Linear(widths[-1], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def make_model(variant: str) -> None:
    """A small AIM; the variants differ in their weights, and in what their cards say."""
    torch.manual_seed(ord(variant))
    model = AIM(Net(), [1], num_classes=2, mask_width=8, example_input=torch.zeros(1, 3, 32, 32)).eval()
    preprocessing = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
    model.save_pretrained(
        f"models/{variant}",
        class_names=["round", "square"],
        preprocessing=preprocessing,
        metrics={"accuracy": ord(variant) / 200},
    )


def save(variant: str) -> None:
    """``save_pretrained`` of two models in turn, ten times, as of one model that is trained on in between."""
    models = [AIM.from_pretrained(f"models/{each}", backbone=Net()) for each in ("ba" if variant == "a" else "ab")]
    for model in models * 10:
        model.save_pretrained("save", metrics={"accuracy": float(model.classifier.weight.mean())})


def command(*words: str) -> Callable[[str], None]:
    """``aimwrap`` with the words, of which those that begin with "a:" or "b:" are of that variant alone."""

    def run(variant: str) -> None:
        other = "ab".replace(variant, "") + ":"
        sys.argv = ["aimwrap", *(word.removeprefix(f"{variant}:") for word in words if not word.startswith(other))]
        aimwrap.cli.main()

    return run


class Command(NamedTuple):
    """A command that writes into the folder of its name."""

    run: Callable[[str], None]  # given a variant, "a" or "b", in the working folder
    overwrites: bool  # whether it replaces the other variant's files; else it refuses their folder
    done: str  # the file that is written last


COMMANDS = {
    "train": Command(
        command(
            *("train", "built", "sources/set", "--backbone", "kills:Net", "--stages", "1", "-q"),
            *("--image-size", "32", "--epochs", "2", "--batch-size", "16", "--checkpoint-steps", "2", "--mask-width"),
            *("8", "a:--lr=0.01", "b:--lr=0.02", "--out", "train", "--accelerator", "cpu", "--workers", "1"),
            *("--keep-masks", "2"),
        ),
        False,
        "summary.json",
    ),
    "build": Command(
        command(
            *("data", "build", "build", "--cutouts", "sources/cutouts", "--backgrounds", "sources/places"),
            *("--image-size", "96", "--cutout-uses", "20", "--background-uses", "20", "--train", "48", "--val"),
            *("8", "--test", "16", "a:--seed=0", "b:--seed=1", "--workers", "2", "-q"),
        ),
        False,
        "metadata.csv",
    ),
    "report": Command(
        command(
            *("report", "a:models/a", "b:models/b", "built", "sources/set", "--out", "report/report.html", "-q"),
            *("--device", "cpu", "--workers", "1", "--no-verify", "--backbone", "kills:Net"),
        ),
        True,
        "report.json",
    ),
    "export": Command(
        command(
            *("export", "a:models/a", "b:models/b", "--format", "pt2", "--fixed-size", "--out", "export/m.pt2", "-q"),
            *("--backbone", "kills:Net"),
        ),
        True,
        "m.pt2",
    ),
    "save": Command(save, True, "README.md"),
}


# ---- Processes ------------------------------------------------------------------------------------------------------


class Kill(NamedTuple):
    """How a process is ended early."""

    after: float | int  # seconds; or, an int, this many changes of files
    number: int  # the signal
    group: bool  # whether its workers get it, too


def start(run: Callable[[str], None], variant: str, log: Path, kill: Kill | None = None) -> int:
    """Fork, and run in a session of its own; in the end two files say what was imported, and how files were changed."""
    log.write_bytes(b"")  # a process may be killed before it opens its own
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setsid()
        torch.set_num_threads(1)  # makes the fork's pool anew; autograd's threads would do it at once, and abort
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        changes = _count_changes(kill)
        code = _ending(lambda: run(variant), code)
        code = _ending(lambda: (threading._shutdown(), atexit._run_exitfuncs()), code)
        for name, words in (("changes", changes[:]), ("imported", [*sys.modules])):
            Path(name).write_text("\n".join(words))
    except KeyboardInterrupt:  # before the command began, or after its end
        code = 130 if code == 99 else code
    finally:
        os._exit(code)


def _ending(call: Callable[[], object], code: int) -> int:
    """The exit code of a call, with the traceback that Python would print."""
    try:
        call()
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 98
    return 0 if code == 99 else code


def _count_changes(kill: Kill | None) -> list[str]:
    """A list of what this process will have changed in the working folder; before a given change it is killed."""
    process, here, changes = os.getpid(), os.getcwd(), []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if not (set(mode or "") & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event in EVENTS:
            path = here if event == "fcntl.lockf" else args[0]
        else:
            return
        inside = isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(here)
        if inside and os.getpid() == process:
            changes.append(event)
            if kill is not None and isinstance(kill.after, int) and len(changes) == kill.after:
                end(process, kill)

    sys.addaudithook(hook)
    return changes


def end(process: int, kill: Kill) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if kill.group else os.kill)(process, kill.number)


def wait(process: int, seconds: float = 240) -> int | str:
    """The exit code, negative for a signal; "hung" if it had to be ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "hung"


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def remaining(sessions: list[int]) -> list[str]:
    """The processes of these sessions that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = entry.read_text().rpartition(")")
            state, _, _, session = rest.split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(f"process {name})")
    return found


# ---- What is there --------------------------------------------------------------------------------------------------

Files = dict[str, str]  # a folder's files, by name: what is in them


def files_in(folder: Path) -> Files:
    """A digest of each file."""
    return {str(path.relative_to(folder)): _digest(path) for path in folder.rglob("*") if not path.is_dir()}


def _digest(path: Path) -> str:
    """Of the bytes, but safetensors writes a file's metadata in any order, and a program's zip has random names."""
    with contextlib.suppress(Exception):  # else it is damaged, and its bytes are what it is
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
                return _of_tensors(values, sorted((file.metadata() or {}).items()))
        if path.suffix == ".pt2":
            metadata: dict[str, Any] = {"aimwrap.json": ""}
            program = torch.export.load(str(path), extra_files=metadata)
            return _of_tensors(dict(program.state_dict), (str(program.graph_module.code), metadata))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_tensors(tensors: dict[str, torch.Tensor], more: object) -> str:
    digest = hashlib.sha256(repr(more).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def compared(now: Files, whole: dict[str, Files]) -> str:
    """Which variant is there: "a", "b", "nothing", "part of a", "part of b", "mixed" or "damaged"."""
    known = {name: digest for name, digest in now.items() if name in whole["a"] or name in whole["b"]}
    for variant, files in whole.items():
        if known == files:
            return variant
    if not known:
        return "nothing"
    fits = [v for v, files in whole.items() if all(files.get(name) == digest for name, digest in known.items())]
    if fits:
        return f"part of {fits[0]}"
    both = all(any(files.get(name) == digest for files in whole.values()) for name, digest in known.items())
    return "mixed" if both else "damaged"


# ---- Trials ---------------------------------------------------------------------------------------------------------


class Undisturbed(NamedTuple):
    """What a command does when nothing disturbs it."""

    files: Files
    seconds: float
    changes: list[str]  # of files, in their order


class Outcome(NamedTuple):
    """What became of a trial."""

    told: str  # what was done
    kills: int  # that came before the end of the process
    beside: int  # of them, beside a second process
    incomplete: bool  # whether files of a set were missing until the command ran again
    found: dict[str, str]  # what is wrong, by the columns of the table


COLUMNS = ("trials", "kills", "beside another", "as undisturbed", "lost", "mixed", "left over", "other", "incomplete")
ROUND = ("train", "build", "report", "save", "train", "build", "report", "save", "export")  # which takes longest


def prepare(names: list[str]) -> dict[str, dict[str, Undisturbed]]:
    """The sources, and what each command does undisturbed."""
    make_sources(Path("sources"))
    for variant in "ab":
        assert wait(start(make_model, variant, Path("log"))) == 0, Path("log").read_text()
    undisturbed = {"build": undisturbed_runs("build")}
    shutil.copytree("build", "sources/set")
    return undisturbed | {name: undisturbed_runs(name) for name in dict.fromkeys(names) if name != "build"}


def undisturbed_runs(name: str) -> dict[str, Undisturbed]:
    """Each variant of a command, run twice to see that it does the same each time; its files are kept in "whole"."""
    found: dict[str, Undisturbed] = {}
    for variant in "abab":
        shutil.rmtree(name, ignore_errors=True)
        began, used = time.monotonic(), _used()
        code = wait(start(COMMANDS[name].run, variant, Path("log")))
        seconds, used = time.monotonic() - began, _used() - used
        assert code == 0, Path("log").read_text()
        for module in Path("imported").read_text().split():  # so that the next fork has it
            if module.startswith(("torch", "sympy", "aimwrap")):
                importlib.import_module(module)
        files = files_in(Path(name))
        before = found[variant].files if variant in found else files
        differ = sorted(file for file, _ in set(before.items()) ^ set(files.items()))
        assert not differ, f"{name} gives other files the second time, undisturbed: {differ}"
        found[variant] = Undisturbed(files, seconds, Path("changes").read_text().split())
        shutil.copytree(name, Path("whole", name, variant), dirs_exist_ok=True)
    print(f"{name}: {len(files)} files, {len(found['a'].changes)} changes, {used:.1f} s of a processor", flush=True)
    return found


def try_one(name: str, trial: str, undisturbed: dict[str, Undisturbed]) -> Outcome:
    """Kill a command once or twice, perhaps beside a second process on the same folder, and run it to its end."""
    rng, each, folder = random.Random(trial), COMMANDS[name], Path(name)
    whole = {variant: known.files for variant, known in undisturbed.items()}
    shutil.rmtree(folder, ignore_errors=True)
    before = rng.choice([None, "b"]) if each.overwrites else None
    if before is not None:
        shutil.copytree(Path("whole", name, before), folder)
    found: dict[str, str] = {}
    told, sessions, kills, beside, incomplete = [f"over {before}"] if before else [], [], 0, 0, False
    for _ in range(rng.choice([1, 1, 2])):
        second = rng.choice([None, "a", "b"])
        variants = ["a"] if second is None else ["a", second]
        victim = rng.randrange(len(variants))
        kill = _drawn(rng, undisturbed[variants[victim]], len(variants))
        aside = rng.choice([0, 0, 0.3]) * undisturbed["a"].seconds
        told.append(f"{' and '.join(variants)}, {variants[victim]} ({victim + 1}) gets {kill}")
        began, processes = time.monotonic(), []
        for number, variant in enumerate(variants):
            time.sleep(aside if number else 0)
            own = kill if number == victim and isinstance(kill.after, int) else None
            processes.append(start(each.run, variant, Path(f"log-{number}"), own))
        if isinstance(kill.after, float):
            time.sleep(max(0, kill.after - (time.monotonic() - began)))
            end(processes[victim], kill)
        codes = [wait(process) for process in processes]
        sessions += processes
        # Ctrl-C in the middle of a gradient ends torch's C++ code by SIGABRT
        killed = codes[victim] == -kill.number or (kill.number == signal.SIGINT and codes[victim] in (130, -6))
        kills, beside = kills + killed, beside + (killed and len(variants) > 1)
        for number, code in enumerate(codes):
            said = Path(f"log-{number}").read_text()
            refused = code == 1 and len(variants) > 1 and any(words in said for words in REFUSED)
            wrong = not (code == 0 or refused or (number == victim and killed))
            said_by_it = said.partition("Exception ignored in")[0]  # Ctrl-C in Python's own exit is no error of ours
            if wrong or ("Traceback" in said_by_it and code not in (-6, -9)):  # nor of a killed process's workers
                found["other"] = f"process {number + 1} of {len(variants)}: {code}\n{said[-3000:]}"
        if each.overwrites or (folder / each.done).is_file():
            now = compared(files_in(folder), whole)
            told.append(f"then there is {now}")
            if now == "mixed":
                found["mixed"] = "after the kill"
            elif now == "damaged" or (now == "nothing" and before):
                found["lost"] = f"after the kill: {now}, and there was {before}"
            elif now not in whole and before:
                incomplete = True
            before = now if now in whole else before
    return Outcome("; ".join(told), kills, beside, incomplete, found | _after_the_end(name, sessions, whole))


def _drawn(rng: random.Random, usual: Undisturbed, processes: int) -> Kill:
    """A random moment, a random change of files, or one that replaces or removes a file, which most depends on.

    Mostly SIGKILL, else what a scheduler and a keyboard send.
    """
    changes = range(1, len(usual.changes) + 1)
    decisive = [number for number in changes if usual.changes[number - 1] in ("os.rename", "os.remove")]
    moment = rng.uniform(0, usual.seconds * (1 if processes == 1 else 1.5))
    after = rng.choice([moment, moment, rng.choice(changes), rng.choice(decisive)])
    number = rng.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], (70, 15, 15))[0]
    return Kill(after, number, number != signal.SIGKILL or rng.random() < 0.5)


def _after_the_end(name: str, sessions: list[int], whole: dict[str, Files]) -> dict[str, str]:
    """Run the command to its end, and look at everything that is there then."""
    each, folder, log, found = COMMANDS[name], Path(name), Path("log"), {}
    for variant in "ab":
        code, said = wait(start(each.run, variant, log)), log.read_text()
        if not (code == 1 and not each.overwrites and any(words in said for words in REFUSED)):
            break
    if code != 0:
        found["other"] = f"the command again: {code}\n{said[-3000:]}"
    now = files_in(folder)
    missing, extra = sorted(whole[variant].keys() - now.keys()), sorted(now.keys() - whole[variant].keys())
    differ = sorted(file for file in now.keys() & whole[variant].keys() if now[file] != whole[variant][file])
    if missing and code == 0:
        found["lost"] = f"after the end: no {missing}"
    if differ and code == 0:
        found["mixed"] = f"after the end: {differ} differ from those of {variant}"
    until = time.monotonic() + GONE
    while (there := remaining(sessions)) and time.monotonic() < until:
        time.sleep(0.1)
    extra += [str(path) for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    # Python's own folders of sockets, which a killed loader's workers leave, are no work of the commands
    extra += [*there, *(str(path) for path in Path("temporary").iterdir() if not path.name.startswith("pymp-"))]
    extra += [path.name for path in Path("/dev/shm").glob("torch_*") if path.name.split("_")[1] in map(str, sessions)]
    if extra:
        found["left over"] = f"{extra}"
    return found


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """A row for each command, and one of the sums."""
    counts = {}
    for name, those in outcomes.items():
        wrong = Counter(column for one in those for column in one.found)
        same = sum(not one.found for one in those)
        first = (len(those), sum(one.kills for one in those), sum(one.beside for one in those), same)
        last = sum(one.incomplete for one in those)
        counts[name] = [*first, *(wrong[column] for column in COLUMNS[4:-1]), last]
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, row))} |" for name, row in counts.items())])


def run_trials(names: list[str], undisturbed: dict[str, dict[str, Undisturbed]], said: Path) -> None:
    """Try one after the other, each by its name, and add a line on each to a file, until there are enough."""
    for trial in names:
        if said.with_name("enough").exists():
            return
        name, began = trial.split("-")[1], time.monotonic()
        one = try_one(name, trial, undisturbed[name])
        wrong = "".join(f"\n  {column}: {text}" for column, text in one.found.items()) or " fine"
        print(f"{trial}, {time.monotonic() - began:.0f} s: {one.told}:{wrong}", flush=True)
        with said.open("a") as file:
            file.write(json.dumps([name, one]) + "\n")


def outcomes_in(said: Path) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {name: [] for name in COMMANDS}
    for line in said.read_text().splitlines():
        name, one = json.loads(line)
        found[name].append(Outcome(*one))
    return {name: those for name, those in found.items() if those}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many, before the process ended by itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many trials at a time")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="some of them, separated by commas")
    parser.add_argument("--trial", help="only this one")
    given = parser.parse_args()
    round_of = [name for name in ROUND if name in given.commands.split(",")]
    trials = [f"{given.seed}-{name}-{number}" for number, name in enumerate(round_of * given.kills)]
    jobs = [trials[job :: given.jobs] for job in range(given.jobs)]
    if given.trial:
        round_of, jobs = given.trial.split("-")[1:2], [[given.trial]]
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)  # so that forks and results do not vary
    top = Path(tempfile.mkdtemp())  # not a TemporaryDirectory, which forks would remove at their end
    (top / "said").touch()
    enter(top / "0")
    undisturbed = prepare(round_of)
    for job in range(1, len(jobs)):
        shutil.copytree(top / "0", top / str(job))
    running = []
    for job, names in enumerate(jobs):
        process = os.fork()
        if process == 0:
            enter(top / str(job))
            run_trials(names, undisturbed, top / "said")
            os._exit(0)
        running.append(process)
    while running and sum(one.kills for those in outcomes_in(top / "said").values() for one in those) < given.kills:
        time.sleep(1)
        running = [process for process in running if os.waitpid(process, os.WNOHANG) == (0, 0)]
    (top / "enough").touch()
    for process in running:
        os.waitpid(process, 0)
    print(f"\n{table(outcomes_in(top / 'said'))}")
    os.chdir("/")
    shutil.rmtree(top, ignore_errors=True)


def enter(folder: Path) -> None:
    """Work in a folder, with one in it for temporary files."""
    (folder / "temporary").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "temporary")


if __name__ == "__main__":
    main()
