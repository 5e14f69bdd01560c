"""A whole recipe: what ``run.sh`` asks of its stages, done in copies of this process.

``python -m tests.robustness.recipe --kills 20 --damages 100 --seed 1`` kills each step at random
moments of it and deletes or cuts what its stages have made, and gives the same command again each
time.
"""

import argparse
import contextlib
import copy
import mmap
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.robustness.campaign import _silence, _Watch
from tests.robustness.drivers import sha

RECIPE = "mini_an4"
OPTIONS = (
    *("--asr_config", "conf/train_event_speech_mamba.yaml", "--nj", "1", "--inference_nj", "1"),
    *("--use_lm", "true", "--lm_config", "conf/lm_tiny.yaml", "--use_ngram", "true"),
    *("--asr_args", "--max_epoch 2 --num_iters_per_epoch 2"),
    *("--inference_args", "--beam_size 2 --maxlenratio 0.1"),
)
LM = """
lm: transformer
lm_conf: {embed_unit: 8, att_unit: 16, head: 2, unit: 16, layer: 1}
optim: adam
optim_conf: {lr: 0.002}
batch_type: numel
batch_bins: 2000
max_epoch: 1
num_workers: 0
num_att_plot: 0
best_model_criterion: [[valid, loss, min]]
"""
# files that tell times, or of times, or the digest of a checkpoint's file, which is another where
# the same tensors are saved anew: they have to be there
TIMES = re.compile(
    r"(epochs\.jsonl|decode\.json|done\.json|results\.json|RESULTS\.md|report\.html|pack\.zip"
    r"|checkpoint.*\.pth|progress|.*\.log|events\..*|.*\.png|verdict\.json"
    r"|calibration\.json|init\.json|steps\.jsonl|count\.json|recording\.npz|config\.yaml"
    r"|.*trials.*|best.*|.*\.lock)"
)
LOADED = (
    *("espnet2.bin.asr_inference", "espnet2.bin.pack", "espnet_spike.inference.worker"),
    *("espnet_spike.tasks.asr", "espnet_spike.tasks.lm", "espnet_spike.training.train"),
    *("espnet_spike.training.sparsify", "espnet_spike.counting.count", "espnet_spike.export.pack"),
    *("espnet_spike.results.html_page", "espnet_spike.advice.verdict", "torch.optim"),
    *("espnet_spike.results.markdown", "torch.utils.data", "espnet_spike.nn.ops.backends"),
)
# links, logs, what a tool keeps for itself, and what the shell notes
PASSED_OVER = (
    "log",
    "logdir",
    ".done",
    ".cache",
    "tensorboard",
    "att_ws",
    "images",
    "commands.txt",
)


class Run:
    """A recipe in a folder of its own.

    Attributes:
        folder: of the recipe.
        options: of ``run.sh``.
        steps: arguments of ``run_stage``, in order.
    """

    def __init__(self, root: Path, options: Sequence[str] = OPTIONS) -> None:
        self.root, self.options = root, options
        self.folder = root / "egs" / RECIPE
        root.mkdir(parents=True)
        shutil.copy2(ROOT / "run.sh", root)
        for name in ("local", "conf", f"egs/{RECIPE}"):
            shutil.copytree(ROOT / name, root / name, ignore=_made)
        (self.folder / "conf/lm_tiny.yaml").write_text(LM)
        self.python = root / "env/bin/python"
        self.python.parent.mkdir(parents=True)
        self.asked = root / "asked"
        self.python.write_text(
            "#!/bin/sh\n"
            'if [ "$2" = espnet_spike.bin.run_stage ]; then\n'
            f"  for word; do printf '%s\\0' \"$word\"; done >>{shlex.quote(str(self.asked))}\n"
            f"  printf '\\n' >>{shlex.quote(str(self.asked))}\n"
            "else\n"
            f'  exec {shlex.quote(sys.executable)} "$@"\n'
            "fi\n"
        )
        self.python.chmod(0o755)
        self.steps = self.declared()

    def anew(self, root: Path) -> "Run":
        """Return the same recipe in another folder, in which nothing is done yet."""
        shutil.copytree(self.root, root, ignore=_made)
        run = copy.copy(self)
        run.root, run.folder = root, root / "egs" / RECIPE
        return run

    def declared(self) -> list[list[str]]:
        """Return what ``run.sh`` asks of its stages, given what is there."""
        self.asked.write_text("")
        words = ["bash", str(self.root / "run.sh"), "--recipe", RECIPE, *self.options]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*words, "--env", str(self.root / "env")], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = self.asked.read_text().split("\0\n")
        return [line.split("\0")[2:] for line in lines if line]

    def __call__(self, kill: int = -1, step: int | None = None) -> tuple[int, str, int]:
        """Give the command; return its status, what it said and how often it changed files.

        Args:
            kill: before so many changes it is killed, with all its processes; -1: never.
            step: do this one alone.
        """
        steps = self.steps if step is None else [self.steps[step]]
        count = mmap.mmap(-1, 8)
        log = self.root / "said"
        log.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.setpgid(0, 0)
                os.chdir(self.folder)
                sys.addaudithook(_Killer(self.folder, kill, count))
                with _silence(log):
                    status = _told(lambda: self._run(steps))
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a killed one has left
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return code, log.read_text(errors="replace"), int.from_bytes(count[:], "little")

    def _run(self, steps: Sequence[list[str]]) -> int:
        from espnet_spike.bin import run_stage
        from espnet_spike.utils import stages
        from espnet_spike.utils.cli import run

        vars(stages)["_stream"] = _stream
        os.environ["PATH"] = f"{self.python.parent}:{os.environ['PATH']}"
        os.environ["PYTHONPATH"] = str(ROOT)
        for words in steps:
            try:
                run(run_stage.main, words)
            except SystemExit as left:
                if left.code not in (0, None):
                    return int(left.code)
        return 0

    def contents(self) -> dict[str, str]:
        """Return the digests of what is made; of what tells times, that it is there."""
        found = {}
        for place in ("data", "dump", "exp"):
            for path in sorted((self.folder / place).rglob("*")):
                inside = path.relative_to(self.folder)
                if path.is_file() and not set(inside.parts) & set(PASSED_OVER):
                    of_times = TIMES.fullmatch(path.name)
                    found[str(inside)] = "" if of_times else _content(path)
        return found

    def outputs(self) -> dict[str, list[str]]:
        """Return the files that each stage vouches for, by its name."""
        from espnet_spike.utils.markers import records

        with contextlib.chdir(self.folder):
            found = {}
            for home in ("data", "dump", "exp"):
                for name, record in records(Path(home)).items():
                    if record.home == home:
                        found[name] = sorted(record.files)
            return found


def _content(path: Path) -> str:
    """Return a digest of a file; of a model of its tensors, which may be saved anew."""
    if path.suffix == ".pth":
        import torch

        with contextlib.suppress(Exception):  # what is cut is another content anyway
            state = torch.load(path, weights_only=True)
            return sha(b"".join(k.encode() + v.numpy().tobytes() for k, v in state.items()))
    return sha(path.read_bytes())


def _made(folder: str, names: list[str]) -> set[str]:
    return {*names} & {"data", "dump", "exp"}


class _Killer(_Watch):
    """Counts changes of all processes of a run together, and kills them all.

    Threads of a process come here at once: nothing is written but the count, and a moment that two
    of them have passed together is not missed.
    """

    def __init__(self, folder: Path, kill: int, count: mmap.mmap) -> None:
        super().__init__(folder, kill)
        self.inside, self.count = str(folder), count

    def __call__(self, event: str, args: tuple) -> None:
        if self.changed(event, args):
            number = int.from_bytes(self.count[:], "little")
            if 0 <= self.kill <= number:
                os.killpg(0, signal.SIGKILL)
            self.count[:] = (number + 1).to_bytes(8, "little")


def _stream(command: Sequence[str], log: Path, locks: Sequence[int]) -> int:
    """Run a command as `espnet_spike.utils.stages` does, one of ours in a copy of this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"# {shlex.join(command)}\n#\n")
    if command[1] != "-m":
        with log.open("a") as file:
            done = subprocess.run(command, stdout=file, stderr=file, check=False)
        print(log.read_text(errors="replace"))
        return done.returncode
    child = os.fork()
    if child == 0:
        status = 70
        try:
            with _silence(log):
                status = _told(lambda: _here(command[2], command[3:]))
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    print(log.read_text(errors="replace"))
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _told(function: Callable[[], int]) -> int:
    """Return what a function returns, or 70 after the traceback of what it raises."""
    try:
        return function()
    except BaseException:
        traceback.print_exc()
        return 70


def _here(module: str, words: Sequence[str]) -> int:
    from espnet_spike.export import pack
    from espnet_spike.inference import decode
    from espnet_spike.utils.cli import run
    from tests.robustness import trained

    def jobs(name: str, todo: Any, poll: Any) -> None:
        for job in todo:
            assert _here(job.command[2], job.command[3:]) == 0
        poll()

    decode.run_jobs = jobs
    vars(pack)["subprocess"] = trained.ESPNETS_PACK
    try:
        run(import_module(module).main, list(words))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the files that are not what they have to be."""
    return sorted(name for name in wanted if found.get(name) != wanted[name])


def damage(path: Path, rng: random.Random) -> str:
    """Delete or cut a file; return what was done."""
    data = path.read_bytes()
    path.unlink()
    if rng.random() < 0.5 or len(data) < 2:
        return "deleted"
    path.write_bytes(data[: rng.randrange(len(data) - 1)])
    return "cut"


def damaged(run: Run, cases: Sequence[tuple[str, str]], rng: random.Random) -> Iterator[str]:
    """Damage outputs in turn, and give the same command; yield what is wrong after it.

    It heals, or names a command. A file whose loss is refused is put back for the next case.
    """
    wanted = run.contents()
    for name, file in cases:
        path = run.folder / file
        kept = path.read_bytes()
        done = damage(path, rng)
        status, said, _ = run()
        told = status == 1 and "error: " in said and "hint: " in said
        lost = differences(wanted, run.contents())
        if not status and not lost:
            continue
        if told:
            print(f"{name}: {file} {done}: {said[said.rindex('error: ') :][:500]}")
        else:
            yield f"{name}: {file} {done}: status {status}, not healed: {lost[:5]}\n{said[-1500:]}"
        path.write_bytes(kept)
        status, said, _ = run()
        if status or differences(wanted, run.contents()):
            yield f"{name}: {file} put back: status {status}\n{said[-1500:]}"


def prepared(root: Path) -> tuple[Run, list[int]]:
    """Return a recipe that has run to its end, and how often each step changed files."""
    for module in LOADED:  # once for all copies of this process
        import_module(module)
    run = Run(root)
    changes = []
    for step in range(len(run.steps)):
        status, said, count = run(step=step)
        assert status == 0, said[-3000:]
        changes.append(count)
    run.steps = run.declared()  # some inputs are declared where they are there
    assert len(run.steps) == len(changes)
    status, said, _ = run()
    assert status == 0, said[-3000:]
    return run, changes


@dataclass
class Deaths:
    """What came of a recipe that was killed again and again on its way.

    Attributes:
        kills: of how many, at which change of which step.
        wrong: what was wrong after them.
    """

    kills: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def killed(like: Run, root: Path, changes: Sequence[int], kills: int, rng: random.Random) -> Deaths:
    """Kill each step on its way, go on by the same command, and compare what comes out at the end.

    Args:
        like: the same recipe, at its end.
        root: a new folder.
        changes: of files, of each step.
        kills: how many; at least one in each step if there are so many, and more where more is
            written. One that comes too late, the step being done, is made up for in the next.
        rng: draws steps and moments.
    """
    numbers = range(len(changes))
    plan = [*numbers] if kills >= len(changes) else rng.sample(numbers, kills)
    plan += rng.choices(numbers, changes, k=kills - len(plan))
    run, found, owed = like.anew(root), Deaths(), 0
    for step in numbers:
        left = changes[step]
        for _ in range(plan.count(step) + owed):
            moment = rng.randrange(max(left, 1))
            status, said, _ = run(moment, step)
            if status == -signal.SIGKILL:
                found.kills.append(f"step {step + 1}, change {moment} of {changes[step]}")
                left -= moment
            elif status:
                found.wrong.append(f"step {step + 1}: status {status}\n{said[-1500:]}")
                break
            else:
                break
        owed = sum(number <= step for number in plan) - len(found.kills)
        status, said, _ = run(step=step)
        if status:
            where = found.kills[-1:] or ["no kill"]
            found.wrong.append(f"after {where[0]}: status {status}\n{said[-1500:]}")
            return found
    if lost := differences(like.contents(), run.contents()):
        found.wrong.append(f"not the same after {found.kills}: {lost[:8]}")
    if len(found.kills) < kills:
        found.wrong.append(f"{len(found.kills)} of {kills} were killed")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run both, print what is wrong; return 1 if anything is."""
    import tempfile

    from espnet_spike.utils.files import plural

    parser = argparse.ArgumentParser(prog="python -m tests.robustness.recipe")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20, help="moments")
    parser.add_argument("--damages", type=int, default=100, help="outputs, at most")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="recipe ") as name:
        start = time.monotonic()
        run, changes = prepared(Path(name) / "whole")
        taken = time.monotonic() - start
        print(f"{len(run.steps)} steps, {len(run.contents())} files, {taken:.0f} s", flush=True)
        deaths = killed(run, Path(name) / "killed", changes, args.kills, rng)
        wrong += deaths.wrong
        print("\n".join(f"killed in {where}" for where in deaths.kills))
        fate = "the same" if not deaths.wrong else "\n".join(["WRONG", *deaths.wrong])
        taken = time.monotonic() - start
        print(f"{len(deaths.kills)} of {args.kills} killed: {fate}, {taken:.0f} s", flush=True)
        cases = [(step, file) for step, files in run.outputs().items() for file in files]
        for step, file in rng.sample(cases, min(args.damages, len(cases))):
            found = [*damaged(run, [(step, file)], rng)]
            wrong += found
            print(f"{step}: {file}: {' '.join(['WRONG', *found]) if found else 'ok'}", flush=True)
        print("\n".join(wrong) or "nothing wrong")
        print(
            f"{len(deaths.kills)} of {args.kills} killed, "
            f"{min(args.damages, len(cases))} of {plural(len(cases), 'output')} damaged, "
            f"{plural(len(wrong), 'fault')}, {time.monotonic() - start:.0f} s"
        )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
