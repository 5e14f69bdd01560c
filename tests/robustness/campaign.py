"""Draw the cases, run each in a process of its own, judge it, print what came of them."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

# those that register mutators and drivers
from tests.robustness import figures, states, structured, trained  # noqa: F401
from tests.robustness.drivers import DRIVERS, Driver, Refused
from tests.robustness.mutation import Expect, Mutation, Place, mutators_of

CPU_SECONDS = 15
WALL_SECONDS = 120
MEMORY = 3 << 30  # bytes more than at the start
DISK = 1 << 28  # bytes a file
VERDICTS = ("ok", "clear error", "traceback", "hang", "wrong success", "escape", "refused")
GOOD = VERDICTS[:2]
CANARY = "sings\n"
# drivers by what their commands load, see `drawn`
WITH_ESPNET = ("check_config", "describe", "transcribe", "transcribe pack", "decode", "count")
WITH_ESPNET += ("simulate", "html_report", "collect_stats", "resume", "lm_train", "pack")
WITH_ESPNET += ("new_recipe csv", "new_recipe gz")
WITH_TORCH = ("prices", "ngram", *WITH_ESPNET)


@dataclass(frozen=True)
class Case:
    """One mutation of one file that a driver reads.

    Attributes:
        seed, number: what it is drawn from.
        driver: its name.
        file: the mutated file.
        mutator: name of what is done to it.
    """

    seed: int
    number: int
    driver: str
    file: str
    mutator: str

    @property
    def label(self) -> str:
        """What the case is."""
        return f"{self.driver}: {self.file}: {self.mutator}"


@dataclass(frozen=True)
class Outcome:
    """What came of a case: one of ``VERDICTS``, and why."""

    case: Case
    verdict: str
    note: str
    detail: str


def draw(seed: int, number: int) -> Case:
    """Return the case of a number; the same for ever, while drivers and mutators are."""
    rng = random.Random(f"{seed}:{number}")
    names = list(DRIVERS)
    driver = rng.choices(names, [DRIVERS[name].weight for name in names])[0]
    file = rng.choice(list(DRIVERS[driver].files))
    mutator = rng.choice(list(mutators_of(DRIVERS[driver].files[file].kind)))
    return Case(seed, number, driver, file, mutator)


def drawn(seed: int, numbers: Iterable[int]) -> list[Case]:
    """Return the cases of numbers, driver by driver, those without torch first: copying a process
    that has it takes several times as long.
    """
    order = sorted(DRIVERS, key=lambda name: (name in WITH_TORCH, name in WITH_ESPNET))
    return sorted((draw(seed, n) for n in numbers), key=lambda case: order.index(case.driver))


@cache
def inputs(driver: str) -> Path:
    """Build the inputs of a driver, once a process."""
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="robustness "))
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    with contextlib.chdir(folder), _silence(Path(os.devnull)):
        DRIVERS[driver].build()
    return folder


def control(driver: str) -> dict[str, Any]:
    """Return what a driver makes of inputs that are not mutated."""
    return control_run(driver)["result"]


@cache
def control_run(driver: str) -> dict[str, Any]:
    """Return the report on a driver whose inputs are not mutated."""
    if DRIVERS[driver].loads:
        with _silence(Path(os.devnull)):
            import_module(DRIVERS[driver].loads)
    with tempfile.TemporaryDirectory(prefix="robustness ") as folder:
        found = run_apart(DRIVERS[driver], inputs(driver), Path(folder), None, "")
    assert found["status"] == "success", (
        f"{driver}: {found['status']} {found.get('error')}\n{found['said'][-2000:]}"
    )
    _import(found["modules"])
    return found


def _import(names: Iterable[str]) -> None:
    """Import what a driver needed, so that the next process has it by its birth."""
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "dask", "distributed", "tests")):
            with contextlib.suppress(Exception):
                import_module(name)


def mutate(case: Case, outside: Path) -> Mutation | None:
    """Make the mutation of a case; None where it does not apply."""
    driver = DRIVERS[case.driver]
    entry = driver.files[case.file]
    touched = frozenset(entry.touched.split()) or None
    place = Place(case.file, outside, touched, entry.optional, entry.ordered, entry.sparse)
    rng = random.Random(f"{case.seed}:{case.number}:{case.label}")
    data = (inputs(case.driver) / case.file).read_bytes()
    mutation = mutators_of(entry.kind)[case.mutator](rng, data, place)
    if mutation is None or case.mutator == "unchanged":
        return mutation
    lenient = {
        Expect.SAME: entry.ours or entry.heals,
        Expect.PARTLY: entry.heals,
        Expect.REFUSED: entry.heals or entry.inert,
    }
    if lenient.get(mutation.expect, False):
        return replace(mutation, expect=Expect.SAME_OR_REFUSED)
    return mutation


def run_killed(driver: str, share: float) -> tuple[str, str]:
    """Kill a driver when it has made a share of its changes to files, and call it again.

    Returns:
        The verdict, which has to be ``ok``: all is as if it had not been killed; and why.
    """
    whole = control_run(driver)
    moment = int(share * whole["changes"])
    with tempfile.TemporaryDirectory(prefix="robustness ") as name:
        root = Path(name).resolve()
        found = run_apart(DRIVERS[driver], inputs(driver), root, None, "", moment)
    same = Mutation(b"", Expect.SAME)
    verdict, detail = judge(DRIVERS[driver], same, found, whole["result"])
    return verdict, f"killed at change {moment} of {whole['changes']}: {detail}"


def run(case: Case) -> Outcome:
    """Run a case and judge it."""
    driver = DRIVERS[case.driver]
    expected = control(case.driver)
    with tempfile.TemporaryDirectory(prefix="robustness ") as name:
        root = Path(name).resolve()
        mutation = mutate(case, root / "outside")
        if mutation is None:
            return Outcome(case, "ok", "does not apply", "")
        found = run_apart(driver, inputs(case.driver), root, mutation, case.file)
    verdict, detail = judge(driver, mutation, found, expected)
    return Outcome(case, verdict, mutation.note, detail)


def run_apart(
    driver: Driver, source: Path, root: Path, mutation: Mutation | None, file: str, kill: int = -1
) -> dict[str, Any]:
    """Run a driver in a copy of this process; return what it reports, with escapes.

    Without a mutation it has no limits: libraries may have to be loaded.
    With ``kill`` it is killed before it changes files for the so-manieth time, and called again.
    """
    work, outside = root / "work", root / "outside"
    shutil.copytree(source, work)
    outside.mkdir()
    (outside / "canary.txt").write_text(CANARY)
    (root / "tmp").mkdir()
    if mutation is not None:
        _put(mutation, work / file, work)
    before = _contents(work)
    if kill >= 0:
        status = _call(driver, root, True, kill)
        assert status is not None and os.WIFSIGNALED(status), "it came to its end"
    status = _call(driver, root, mutation is None)
    found = _report(root, status)
    found["escapes"] = _escapes(outside)
    if not driver.in_place:
        after = _contents(work)
        found["escapes"] += [
            f"{name} was changed" for name in before if before[name] != after.get(name)
        ]
    return found


def _call(driver: Driver, root: Path, large: bool, kill: int = -1) -> int | None:
    child = os.fork()
    if child == 0:
        _in_child(driver, root, large, kill)
    return _wait(child, WALL_SECONDS * (10 if large else 1))


def _put(mutation: Mutation, path: Path, work: Path) -> None:
    if mutation.kind != "file" or mutation.content is None:
        path.unlink()
    if mutation.kind == "folder":
        path.mkdir()
    elif mutation.kind == "loop":
        path.symlink_to(path.name)
    elif mutation.content is not None:
        path.write_bytes(mutation.content)
    for name, content in mutation.beside.items():
        (work / name).write_bytes(content)


def _contents(work: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in work.rglob("*")
        if path.is_file() and path.stat().st_size < 1 << 20
    }


def _in_child(driver: Driver, root: Path, large: bool, kill: int) -> None:
    """Run a driver and leave a report; never returns."""
    report: dict[str, Any] = {}
    try:
        os.setpgid(0, 0)
        if not large:
            _limit()
        os.environ["TMPDIR"] = tempfile.tempdir = str(root / "tmp")
        os.environ["HOME"] = str(root / "tmp")
        os.chdir(root / "work")
        watch = _Watch(root, kill)
        sys.addaudithook(watch)
        with _silence(root / "log"):
            try:
                report = {"status": "success", "result": json.loads(json.dumps(driver.run()))}
            except Refused as error:
                report = {"status": "refused", "error": str(error)}
            except BaseException:
                report = {"status": "traceback", "error": traceback.format_exc()}
        watch.kill = -1
        report |= {"writes": watch.outside, "changes": watch.changes}
        if large:  # who has the mutated cases has no use for them
            report["modules"] = list(sys.modules)
        (root / "report").write_text(json.dumps(report))
    finally:
        os._exit(0)


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, used + MEMORY),
        (resource.RLIMIT_FSIZE, DISK),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


class _Watch:
    """Notes what is written outside of the folder of the case; counts what is changed inside.

    Attributes:
        kill: before so many changes the process kills itself; -1: never.
        changes: files that were opened for writing, renamed or removed.
        outside: what was written elsewhere.
    """

    MODES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self, root: Path, kill: int) -> None:
        self.inside = str(root / "work")
        places = [self.inside, *(str(root / name) for name in ("tmp", "report", "log"))]
        self.allowed = (*places, "/dev/")
        self.kill, self.changes = kill, 0
        self.outside: list[str] = []

    def __call__(self, event: str, args: tuple) -> None:
        if self.changed(event, args):
            if self.changes == self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            self.changes += 1

    def changed(self, event: str, args: tuple) -> bool:
        """Return whether an event is a change inside; note it if it is one outside."""
        name: Any = None
        if event == "open" and isinstance(args[2], int) and args[2] & self.MODES:
            name = args[0]
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"):
            name = args[0]
        elif event in ("os.rename", "os.link", "os.symlink"):
            name = args[1]
        if not isinstance(name, str | bytes | os.PathLike):
            return False
        path = os.path.abspath(os.fsdecode(name))
        if path.startswith(self.inside):
            return True
        if not path.startswith(self.allowed) and "__pycache__" not in path:
            self.outside.append(f"{event} {path}")
        return False


@contextlib.contextmanager
def _silence(log: Path) -> Iterator[None]:
    """Send all output, of other languages too, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    streams = sys.stdout, sys.stderr
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, errors="backslashreplace")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(file)


def _wait(child: int, seconds: float) -> int | None:
    """Return the status of a process; None if it had to be ended."""
    end = time.monotonic() + seconds
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _report(root: Path, status: int | None) -> dict[str, Any]:
    log = root / "log"
    said = log.read_text(errors="replace") if log.exists() else ""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return {"status": "hang", "error": said[-2000:], "said": said}
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return {"status": "traceback", "error": f"{name}\n{said[-2000:]}", "said": said}
    report = root / "report"
    if not report.exists():
        return {"status": "traceback", "error": f"no report\n{said[-2000:]}", "said": said}
    return json.loads(report.read_text()) | {"said": said}


def _escapes(outside: Path) -> list[str]:
    names = sorted(path.name for path in outside.iterdir())
    found = [f"{name} outside" for name in names if name != "canary.txt"]
    canary = outside / "canary.txt"
    if not canary.is_file() or canary.read_text() != CANARY:
        found.append("the canary was changed")
    return found


def judge(
    driver: Driver, mutation: Mutation, found: dict[str, Any], expected: dict[str, Any]
) -> tuple[str, str]:
    """Return the verdict on a case, and why."""
    escapes = found["escapes"] + found.get("writes", [])
    if escapes:
        return "escape", "; ".join(escapes)
    said = found["said"]
    if found["status"] in ("hang", "traceback"):
        return found["status"], found["error"]
    if found["status"] == "refused":
        if "Traceback (most recent call last)" in said:
            return "traceback", said
        message = said[max(said.rfind("error: "), 0) :]
        if "error: " not in said:
            return "traceback", f"no message: {found['error']} {said[-500:]}"
        return ("refused" if mutation.expect is Expect.SAME else "clear error"), message
    result = found["result"]
    differ = {k for k in result.keys() | expected.keys() if result.get(k) != expected.get(k)}
    if mutation.expect is Expect.REFUSED:
        return "wrong success", "it must be refused" + (
            f"; {_differences(differ, result, expected)}" if differ else ""
        )
    allowed = mutation.touched
    if mutation.expect is Expect.PARTLY and (allowed is None or not driver.local):
        return "ok", ""
    if mutation.expect is Expect.PARTLY:
        allowed = (allowed or frozenset()) | {
            utt for key in allowed or () for utt in driver.owners.get(key, "").split()
        }
        differ -= allowed
    if differ:
        return "wrong success", _differences(differ, result, expected)
    return "ok", ""


def _differences(keys: Iterable[str], result: dict[str, Any], expected: dict[str, Any]) -> str:
    return "; ".join(
        f"{key}: {str(expected.get(key))[:150]} became {str(result.get(key))[:150]}"
        for key in sorted(keys)[:3]
    )


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the lines of a table: per driver and format, cases by verdict."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        kind = DRIVERS[outcome.case.driver].files[outcome.case.file].kind
        counts.setdefault((outcome.case.driver, kind), Counter())[outcome.verdict] += 1
    total = sum(counts.values(), Counter())
    columns = ("cases", *VERDICTS)
    lines = [f"{'driver':18}{'format':10}" + "".join(f"{name:>14}" for name in columns)]
    for (driver, kind), found in [*sorted(counts.items()), (("all", ""), total)]:
        cells = [found.total(), *(found[verdict] for verdict in VERDICTS)]
        lines.append(f"{driver:18}{kind:10}" + "".join(f"{cell:14}" for cell in cells))
    return lines
