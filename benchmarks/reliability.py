"""What is lost where a training run is killed, told to end, or its disk is full?

Run: python benchmarks/reliability.py --json reliability.json
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from harness import Table, make_parser, parse, save

from pyg_schnet.cli import main as command
from pyg_schnet.cli import train  # noqa: F401 - imported once, here, and not by every process

LIMIT = 300  # seconds that a run may take
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
MOMENTS = ("in training", "while writing", "before moving", "after moving")
NAME = "run 1"  # with a space, so that commands have to be quoted


def write_data(folder):
    """A file of 60 molecules with energies."""
    structures = []
    for k in range(60):
        atoms = molecule(("H2O", "CH4", "NH3")[k % 3])
        atoms.rattle(0.05, seed=k)
        energy = -10.0 * len(atoms) + float(np.sum(atoms.get_all_distances() ** 2))
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        structures.append(atoms)
    ase.io.write(folder / "a.xyz", structures, format="extxyz")


def start_options(data, folder, epochs):
    """Arguments of a run that saves after every step."""
    return [
        "train", "--data.dataset=pyg_schnet.data.AtomsDataset", f"--data.dataset.source={data / 'a.xyz'}",
        "--data.target=energy", "--data.num_train=40", "--data.num_val=8", "--data.batch_size=8",
        "--model.network.hidden_channels=16", "--model.network.num_filters=16", "--model.network.num_interactions=2",
        f"--trainer.max_epochs={epochs}", "--trainer.max_time=null", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--last_checkpoint.minutes=0", f"--run_dir={folder}",
    ]  # fmt: skip


def resume_options(folder):
    """Arguments with which a run goes on."""
    return ["train", f"--config={folder / 'config.yaml'}", f"--resume={folder / 'checkpoints' / 'last.ckpt'}"]


class Run:
    """A process of the command line, forked from this one, so that nothing is imported again.

    Args:
        arguments: Of the command line.
        prepare: Called in the process before.
    """

    def __init__(self, arguments, prepare=None):
        self.output = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed with the object
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                for stream in (1, 2):
                    os.dup2(self.output.fileno(), stream)
                if prepare is not None:
                    prepare()
                command(arguments)
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
                if isinstance(error.code, str):
                    os.write(2, error.code.encode() + b"\n")
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def is_over(self):
        """Whether it has ended; keeps its exit code, or minus the number of the signal that killed it."""
        if not hasattr(self, "code"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.code = os.waitstatus_to_exitcode(status)
        return True

    def wait(self):
        """Exit code; a run that hangs is killed."""
        end = time.monotonic() + LIMIT
        while not self.is_over():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        return self.code

    def text(self):
        """What it has printed."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode()


def killed_at(moment, saves):
    """What has a process killed in the given moment of its save with the number ``saves``."""

    def prepare():
        fsync, replace, count = os.fsync, os.replace, [0]

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def counted():
            count[0] += 1
            return count[0] == saves

        def half_written(handle):
            if os.path.isfile(f"/proc/self/fd/{handle}") and counted():
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                die()
            fsync(handle)

        def moved(source, target):
            is_it = counted()
            if is_it and moment == "before moving":
                die()
            replace(source, target)
            if is_it:
                die()

        if moment == "while writing":
            os.fsync = half_written
        else:
            os.replace = moved

    return prepare


def damaged(folder):
    """Checkpoints and other files of a run that cannot be read."""
    found = []
    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            found.append(path.name)
    return found


def partial_files(folder):
    """Files that were being written."""
    return list(folder.rglob("*.partial"))


def final_weights(folder):
    """Bytes of the weights that the run has ended with, and of the best ones."""
    kept = []
    for name in ("last", "best"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for part in ("state_dict", "current_model_state"):
            kept += [value.numpy().tobytes() for value in checkpoint[part].values()]
    return kept


def go_on(folder, data, epochs):
    """Resume a run, or start it again where it has no checkpoint; returns its exit code."""
    last = folder / "checkpoints" / "last.ckpt"
    return Run(resume_options(folder) if last.is_file() else start_options(data, folder, epochs)).wait()


class Trial:
    """Runs in folders of one file system, compared with one that nothing happens to.

    Args:
        base: Folder of the runs.
        epochs: Of each run.
    """

    def __init__(self, base, epochs):
        self.base, self.epochs = base, epochs
        self.data = base / "data"
        self.data.mkdir()
        write_data(self.data)
        whole = base / "whole"
        begin = time.monotonic()
        assert Run(self.start(whole)).wait() == 0, "a run that nothing happens to has to end well"
        self.seconds = time.monotonic() - begin
        self.weights = final_weights(whole)

    def start(self, folder):
        """Arguments of a run in a folder."""
        return start_options(self.data, folder, self.epochs)

    def finish(self, folder):
        """What became of a run that was ended: files that are damaged, and whether it ends with the same weights."""
        broken = damaged(folder)
        begun = (folder / "checkpoints" / "last.ckpt").is_file()
        code = go_on(folder, self.data, self.epochs)
        same = code == 0 and final_weights(folder) == self.weights
        left = len(partial_files(folder))
        return {"damaged": len(broken), "resumed": int(begun), "identical": int(same), "left_files": left}

    def kill(self, number, generator):
        """Kill a run at a random moment, a third of them in a save."""
        folder = self.base / f"killed-{number}" / NAME
        moment = MOMENTS[number % 4] if number % 2 else MOMENTS[0]
        if moment == "in training":
            run = Run(self.start(folder))
            time.sleep(generator.uniform(0.1, 1.0) * self.seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.pid, signal.SIGKILL)
        else:
            run = Run(self.start(folder), killed_at(moment, int(generator.integers(1, 8 * self.epochs))))
        run.wait()
        return {"moment": moment, "killed": int(run.code == -signal.SIGKILL), **self.finish(folder)}

    def tell(self, name, generator):
        """Tell a run to end, and give the command that it prints."""
        folder = self.base / name / NAME
        run = Run(self.start(folder))
        while not (folder / "checkpoints" / "last.ckpt").is_file() and not run.is_over():
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.3) * self.seconds)
        if not run.is_over():
            os.kill(run.pid, getattr(signal, name))
        run.wait()
        number = getattr(signal, name)
        commands = [line for line in run.text().splitlines() if line.startswith("    pyg-schnet train")]
        code = None
        if len(commands) == 1:  # as a shell takes it, but in a process that has imported everything
            code = Run(shlex.split(commands[0])[1:]).wait()
        same = code == 0 and final_weights(folder) == self.weights
        return {"exit": run.code, "expected": 128 + number, "printed": len(commands), "identical": int(same)}


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A file system of its own that is soon full; ``None`` where this process may not make one."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield made.returncode == 0
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def emulated(marker):
    """What has every write fail while a file is there, where no small file system can be made."""

    def prepare():
        fsync = os.fsync

        def failing(handle):
            if marker.exists():
                raise OSError(28, "No space left on device")
            fsync(handle)

        os.fsync = failing

    return prepare


def fill_disk(trial, forever):
    """A run whose disk is full from its first checkpoints on, for a while or until it ends."""
    base = trial.base / ("full-forever" if forever else "full")
    with small_disk(base, 16_000) as is_real:
        folder, marker = base / NAME, base / "filling"
        run = Run(trial.start(folder), None if is_real else emulated(marker))
        best = folder / "checkpoints" / "best.ckpt"
        while not best.is_file() and not run.is_over():
            time.sleep(0.002)
        with open(marker, "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 10, 1) if is_real else ():
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        if not forever:
            while "Checkpoint not saved: " not in run.text() and not run.is_over():
                time.sleep(0.002)
            marker.unlink()
        code = run.wait()
        said = run.text().count("Checkpoint not saved: ")
        lost = damaged(folder) + [name for name in ("last.ckpt", "best.ckpt") if not (best.parent / name).is_file()]
        left = len(partial_files(folder))
        if forever:
            marker.unlink()
            resumed = Run(resume_options(folder)).wait()
            same = resumed == 0 and final_weights(folder) == trial.weights
        else:
            same = code == 0 and final_weights(folder) == trial.weights
        kind = "tmpfs" if is_real else "emulated"
        return {
            "disk": kind, "exit": code, "said": said, "damaged": len(lost), "left_files": left, "identical": int(same)
        }  # fmt: skip


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30, help="kills on each file system")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folders",
        type=Path,
        nargs="+",
        default=[Path(tempfile.gettempdir()), Path("/dev/shm")],
        help="where runs are; one on another file system than that of temporary files",
    )
    parser.add_argument("--signals", nargs="*", default=SIGNALS, help="signals to send")
    options = parse(parser)
    generator = np.random.default_rng(options.seed)
    columns = {name: f"{{{name}}}" for name in ("runs", "killed", "resumed", "damaged", "identical", "codes")}
    table = Table({"what": "{what:40}", **columns})
    for place in options.folders:
        if not place.is_dir():
            continue
        is_one = place.stat().st_dev == os.stat(tempfile.gettempdir()).st_dev
        name = "one file system" if is_one else "two file systems"
        base = Path(tempfile.mkdtemp(prefix="reliability-", dir=place))
        try:
            trial = Trial(base, options.epochs)
            kills = [trial.kill(number, generator) for number in range(options.kills)]
            for moment in MOMENTS:
                rows = [row for row in kills if row["moment"] == moment]
                if rows:
                    table.add({"what": f"killed {moment}, {name}", **total(rows)})
            told = [trial.tell(signal_name, generator) for signal_name in options.signals]
            table.add({"what": f"told to end ({', '.join(options.signals)}), {name}", **total(told)})
            for forever in (False, True):
                what = "disk full until the end" if forever else "disk full for a while"
                table.add({"what": f"{what}, {name}", **total([fill_disk(trial, forever)])})
        finally:
            shutil.rmtree(base, ignore_errors=True)
    save(options, table.rows)


def total(rows):
    """Counts of several trials."""
    names = ("killed", "resumed", "damaged", "identical", "left_files", "said")
    sums = {name: sum(row.get(name, 0) for row in rows) for name in names}
    return {"runs": len(rows), **sums, "codes": [row["exit"] for row in rows if "exit" in row]}


if __name__ == "__main__":
    main()
