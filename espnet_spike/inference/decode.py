"""Decode test sets with a trained model: plan, run the jobs, put their parts together."""

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import util
from pathlib import Path
from typing import Any

from espnet_spike.data.ark import parse_entry
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    INFERENCE,
    VERDICT,
    model_file,
    read_config,
    read_verdict,
    recorded_name,
)
from espnet_spike.inference.batches import (
    PARENT,
    ProgressBar,
    Run,
    deal,
    make_batches,
    number_of_jobs,
)
from espnet_spike.inference.search_values import (
    check_idle,
    check_search_values,
    given_options,
    largest_beam,
    search_values,
)
from espnet_spike.ranges import DECODING, check
from espnet_spike.tasks.arguments import parse_search, split_args
from espnet_spike.utils.cli import COUNT
from espnet_spike.utils.cluster import ClusterConfig, number_of_tasks, own_name
from espnet_spike.utils.cluster import run_tasks as run_on_cluster
from espnet_spike.utils.files import (
    file_digest,
    name_some,
    plural,
    present,
    read_lines,
    read_table,
    text_digest,
    write_json,
    write_lines,
    write_table,
)
from espnet_spike.utils.install import how_to_install
from espnet_spike.utils.jobs import Job, run_jobs, visible_gpus
from espnet_spike.utils.provenance import environment, portable_path
from espnet_spike.utils.yaml import read_yaml, write_config

_logger = logging.getLogger("decode")
INFERENCE_COMMAND = (sys.executable, "-m", "espnet_spike.bin.asr_inference")
RECORD = "decode.json"  # how a set was decoded

# keys of an inference config that are ours, as in asr.sh: files in the experiment folders
OWN_KEYS = ("inference_asr_model", "inference_lm")
# ours too: how the encoder runs
EXECUTION_KEYS = tuple(field.name for field in fields(SpikeOptions))
# options that this command sets itself
RESERVED = (
    *("output_dir", "data_path_and_name_and_type", "key_file", "ngpu", "config"),
    *("asr_train_config", "asr_model_file", "lm_train_config", "lm_file", "model_tag"),
    "ngram_file",
)


@dataclass(frozen=True)
class Settings:
    """An inference config with the arguments of the command line over it.

    Attributes:
        path: the YAML, None for ESPnet's defaults.
        config: what it holds, without our own keys.
        words: further ESPnet options.
        batch_size: utterances in one beam search.
        asr_model, lm: model files in their experiment folders, by name or path within, or None.
        execution: how the encoder runs.
    """

    path: Path | None
    config: dict[str, Any]
    words: list[str]
    batch_size: int
    asr_model: str | None
    lm: str | None
    execution: SpikeOptions = field(default_factory=SpikeOptions)


def read_settings(config_path: Path | None, arguments: str = "") -> Settings:
    """Read an inference config (None: ESPnet's defaults) and arguments such as "--beam_size 5".

    Raises:
        UserError: a bad file, or an option that is not for the user to set.
    """
    config = read_yaml(config_path) if config_path is not None else {}
    own = {key: config.pop(key, None) for key in (*OWN_KEYS, *EXECUTION_KEYS)}
    check(DECODING, own, str(config_path))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for key in OWN_KEYS:
        parser.add_argument(f"--{key}", default=own[key])
    SpikeOptions.add_arguments(parser, own)
    parser.add_argument("--batch_size", type=COUNT, default=config.get("batch_size", 1))
    try:
        found, words = parser.parse_known_args(split_args(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"--inference_args: {error}") from None
    given = {*config, *(word.removeprefix("--").split("=")[0] for word in words)}
    for key in RESERVED:
        if key in given:
            hint = "the model file is chosen by inference_asr_model" if "model" in key else ""
            hint = "give it as --ngram_file (run.sh: --use_ngram true)" if "ngram" in key else hint
            raise UserError(f"{key} is set by the decode command, not by the user", hint)
    check(DECODING, {"batch_size": found.batch_size}, "--inference_args")
    check_search_values(config, words, str(config_path))
    return Settings(
        config_path,
        config | {"batch_size": found.batch_size},
        words,
        found.batch_size,
        found.inference_asr_model,
        found.inference_lm,
        SpikeOptions.from_options(found),
    )


def tokens_of(exp: Path) -> list[str]:
    """Return the token list of an experiment.

    Raises:
        UserError: no trained model.
    """
    tokens = read_config(exp).get("token_list", [])
    return tokens if isinstance(tokens, list) else read_lines(Path(tokens))


def fit_beam(settings: Settings, exp: Path) -> Settings:
    """Make the beam no larger than the vocabulary of an experiment allows, and say so.

    Raises:
        UserError: no trained model.
    """
    count = len(tokens_of(exp))
    asked = int(search_values(settings.config, settings.words)["beam_size"])
    most = largest_beam(count)
    if asked <= most:
        return settings
    _logger.warning("beam_size %d is more than %d tokens allow; %d is used", asked, count, most)
    return replace(settings, words=[*settings.words, "--beam_size", str(most)])


def decodings(names: str | None, out: Path) -> list[tuple[str | None, Path]]:
    """Return the model files to decode with, each with the folder of its decoding.

    Args:
        names: of the model files, in one string; None or nothing for the best.
        out: the folder, if there is one of them; of several, each has its own beside it, which
            ends in ``_asr_model_NAME``, as in ESPnet's recipes; NAME has _ for / in a path.

    Raises:
        UserError: a name is given twice, or a path that is not within the experiment.
    """
    found = (names or "").split()
    if len(found) < 2:
        return [(found[0] if found else None, out)]
    ends = [name.removesuffix(".pth").replace("/", "_") for name in found]
    for name, end in zip(found, ends, strict=True):
        if ends.count(end) > 1:
            raise UserError(f"--inference_asr_model: {name} is given twice", "give it once")
        if {"", ".", ".."} & set(name.split("/")):
            raise UserError(
                f"--inference_asr_model {name} is no path within the experiment",
                "give names of files in --asr_exp",
            )
    return [
        (name, out.with_name(f"{out.name}_asr_model_{end}"))
        for name, end in zip(found, ends, strict=True)
    ]


def bound_search(settings: Settings, exp: Path, given: str = "") -> Settings:
    """Bound the search with a model that has learnt nothing: the best path, and no endless output.

    Args:
        settings: of the decoding.
        exp: experiment; without a verdict, or one that something was learnt, nothing changes.
        given: options of the user, which are stronger.

    Raises:
        UserError: a damaged verdict.
    """
    verdict = read_verdict(exp)
    if verdict is None or verdict["learnt"]:
        return settings
    ratio = min(1.5 * (verdict.get("tokens_a_frame") or 1.0), 1.0)
    bounds = {"beam_size": "1", "maxlenratio": f"{ratio:.3g}"}
    words = [
        w
        for name, value in bounds.items()
        if f"--{name}" not in given
        for w in (f"--{name}", value)
    ]
    _logger.warning(
        "%s has learnt nothing, see %s: decoded with %s, to save time",
        *(exp, VERDICT, " ".join(words) or "your options"),
    )
    return replace(settings, words=[*settings.words, *words])


@dataclass(frozen=True)
class Plan:
    """What to decode, with what, in how many jobs.

    Attributes:
        asr_exp, asr_file: experiment folder and model file.
        lm_exp, lm_file: the same of the language model, or None.
        settings: of the beam search.
        out: the folder of the decoding, ``exp/<asr_tag>/<inference_tag>``.
        sets: name -> features.
        gpu: decode on the GPU.
        runs: by job, the runs it does one after the other.
        ngram_file: token n-gram in KenLM's format or an ARPA file, or None.
    """

    asr_exp: Path
    asr_file: Path
    lm_exp: Path | None
    lm_file: Path | None
    settings: Settings
    out: Path
    sets: dict[str, FeatureDir]
    gpu: bool
    runs: list[list[Run]]
    ngram_file: Path | None = None

    @property
    def threads(self) -> int:
        """Threads of a job: one, as in ESPnet's recipes, or of a lone job ``OMP_NUM_THREADS``."""
        return int(os.environ.get("OMP_NUM_THREADS", 1)) if len(self.runs) == 1 else 1


def make_plan(
    asr_exp: Path,
    lm_exp: Path | None,
    settings: Settings,
    out: Path,
    data_dirs: Mapping[str, Path],
    inference_nj: int,
    gpu: bool = False,
    utterances_per_task: int | None = None,
    ngram_file: Path | None = None,
) -> Plan:
    """Choose the model files, make batches and deal them out.

    With ``utterances_per_task`` the jobs are tasks of a cluster, about so large, however many.

    Raises:
        UserError: no trained model, an incomplete feature directory, features of another
            definition than the model's, an n-gram without KenLM, or a weight of what is not there.
    """
    if inference_nj < 1:
        raise UserError(f"--inference_nj {inference_nj}", "give a whole number from 1 up")
    if "," in str(out):
        raise UserError(f"the path {out} holds a comma", "ESPnet splits there; rename it")
    check_idle(settings.words, lm=lm_exp is not None, ngram=ngram_file is not None)
    if ngram_file is not None:
        check_ngram(ngram_file, asr_exp, settings)
    asr_file = model_file(asr_exp, settings.asr_model)
    lm_file = model_file(lm_exp, settings.lm) if lm_exp is not None else None
    check_same_features(asr_exp, data_dirs.values())
    sets = {name: FeatureDir.read(folder) for name, folder in data_dirs.items()}
    frames = {name: {utt: t for utt, (t, _) in data.shapes.items()} for name, data in sets.items()}
    batches = {name: make_batches(frames[name], settings.batch_size) for name in sets}
    seconds = sum(sum(data.durations.values()) for data in sets.values())
    if utterances_per_task is not None:
        inference_nj = number_of_tasks(sum(map(len, frames.values())), utterances_per_task)
    jobs = number_of_jobs(inference_nj, seconds, sum(map(len, batches.values())))
    loads = [0] * jobs
    runs: list[list[Run]] = [[] for _ in range(jobs)]
    plan = Plan(asr_exp, asr_file, lm_exp, lm_file, settings, out, sets, gpu, runs, ngram_file)
    for name in sets:
        for number, keys in enumerate(deal(batches[name], frames[name], loads)):
            if keys:
                run = Run(out / name, number + 1, keys)
                run.words += run_words(plan, run)
                runs[number].append(run)
    return plan


def run_words(plan: Plan, run: Run) -> list[str]:
    """Return ESPnet's options for a run."""
    words = [
        *("--config", str(plan.out / INFERENCE), *plan.settings.words),
        *("--batch_size", str(plan.settings.batch_size)),
        *("--ngpu", "1" if plan.gpu else "0"),
        *("--asr_train_config", str(plan.asr_exp / "config.yaml")),
        *("--asr_model_file", str(plan.asr_file)),
        *("--data_path_and_name_and_type", f"{run.scp},speech,kaldi_ark"),
        *("--key_file", str(run.scp)),
        *("--output_dir", str(run.output_dir)),
        *("--log_file", str(run.log)),
        *plan.settings.execution.words(),
    ]
    if plan.lm_exp is not None:
        words += ["--lm_train_config", str(plan.lm_exp / "config.yaml")]
        words += ["--lm_file", str(plan.lm_file)]
    if plan.ngram_file is not None:
        words += ["--ngram_file", str(plan.ngram_file)]
    return words


def check_ngram(path: Path, asr_exp: Path, settings: Settings) -> None:
    """Check that an n-gram is there and of a model's tokens, and what it is queried with.

    Raises:
        UserError: the file or KenLM is missing, the file is no n-gram, or it is one of other
            tokens, all of which would be scored alike; or ESPnet's scorer takes no batches.
    """
    if not present(path):
        raise UserError(f"{path}: no such n-gram", "stage 6 makes it (--use_ngram true)")
    if util.find_spec("kenlm") is None:
        raise UserError(
            f"{path} is queried with KenLM, which is not installed", how_to_install("ngram")
        )
    scorer = given_options(settings.config, settings.words).get("ngram_scorer")
    if scorer == "part" and settings.batch_size > 1:
        raise UserError(
            f"ngram_scorer part with batch_size {settings.batch_size}: it takes no batches",
            'give --inference_args "--ngram_scorer part --batch_size 1"',
        )
    kenlm = importlib.import_module("kenlm")
    try:
        model = kenlm.LanguageModel(str(path))
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # the last in its own message
        raise UserError(
            f"{path}: KenLM cannot read it: {error}", "make it anew (stage 6)"
        ) from None
    lacking = [token for token in tokens_of(asr_exp) if token not in ("<unk>", "<blank>")]
    lacking = [token for token in lacking if token not in model]
    if lacking:
        raise UserError(
            f"{path} lacks {plural(len(lacking), 'token')} of {asr_exp}: {name_some(lacking)}",
            "estimate it with the token list of the model (stage 6)",
        )


def _stamp(path: Path) -> str:
    """Return what changes when a file is written anew.

    Raises:
        UserError: it is not there.
    """
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", "run the stage that makes it again") from error
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def fingerprint(plan: Plan, run: Run) -> str:
    """Hash all that the hypotheses of a run depend on."""
    feats = plan.sets[run.set_dir.name].feats
    arks = sorted({parse_entry(key, feats[key]).path for key in run.keys})
    files = [plan.asr_exp / "config.yaml", plan.asr_file, *map(Path, arks)]
    if plan.lm_exp is not None:
        files += [plan.lm_exp / "config.yaml", plan.lm_file]
    if plan.ngram_file is not None:
        files.append(plan.ngram_file)
    parts = [
        *(f"{name} {version}" for name, version in environment().items()),
        json.dumps(plan.settings.config, sort_keys=True, default=str),
        *run.words,
        *(f"{key} {feats[key]}" for key in run.keys),
        *map(_stamp, files),
    ]
    return text_digest("\n".join(parts))


def prepare(plan: Plan) -> list[list[Run]]:
    """Write the input files of the runs; return those that an interrupted call left undone."""
    plan.out.mkdir(parents=True, exist_ok=True)
    write_config(plan.out / INFERENCE, plan.settings.config)
    _remove_stale(plan)
    todo = []
    for runs in plan.runs:
        undone = []
        for run in runs:
            key = fingerprint(plan, run)
            report = run.report()
            if report is not None and report["fingerprint"] == key:
                continue
            shutil.rmtree(run.output_dir, ignore_errors=True)
            run.output_dir.mkdir(parents=True)
            run.log.unlink(missing_ok=True)
            feats = plan.sets[run.set_dir.name].feats
            write_lines(run.scp, (f"{utt} {feats[utt]}" for utt in run.keys))
            write_lines(run.options_file, [*run.words, "--fingerprint", key])
            undone.append(run)
        todo.append(undone)
    return todo


def _remove_stale(plan: Plan) -> None:
    """Remove what no run of this plan is to write: of an earlier call, of a worker that died."""
    wanted = {path for runs in plan.runs for run in runs for path in run.files}
    for name in plan.sets:
        for path in (plan.out / name / "logdir").glob("*.[0-9]*"):
            if path.is_dir() and path not in wanted:
                shutil.rmtree(path)
            elif path not in wanted:
                path.unlink()


def decode(plan: Plan, cluster: ClusterConfig | None = None) -> dict[str, dict[str, Any]]:
    """Run the jobs, here or on a cluster, and put the hypotheses of every set together.

    Returns:
        Set name -> what its ``decode.json`` holds.

    Raises:
        UserError: a job failed, or an utterance has no hypothesis or a NaN score.
    """
    start = time.time()
    todo = list(filter(None, prepare(plan)))
    bar = ProgressBar(
        [run for runs in todo for run in runs], sum(len(data.feats) for data in plan.sets.values())
    )
    with bar.bar:
        if cluster is None:
            run_jobs("decoding", _jobs(plan, todo), bar.update)
        else:
            tasks = ((runs, plan.threads, INFERENCE_COMMAND) for runs in todo)
            run_on_cluster(cluster, _decode_apart, tasks, lambda number: bar.update())
            _remove_stale(plan)  # what dead workers have left
    try:
        records = {name: merge(plan, name) for name in plan.sets}
    except UserError:
        _remove_parts(plan)  # the next call must not take them for good
        raise
    for name, record in records.items():
        record["finished"] = time.strftime("%FT%T%z")
        record["wall_seconds"] = round(time.time() - start, 2)
        write_json(plan.out / name / RECORD, record, ensure_ascii=False)
    write_config(plan.out / INFERENCE, next(iter(records.values()))["options"])
    _remove_parts(plan)
    return records


def _jobs(plan: Plan, todo: list[list[Run]]) -> list[Job]:
    jobs = []
    for runs in todo:
        environ = {"OMP_NUM_THREADS": str(plan.threads), PARENT: str(os.getpid())}
        if plan.gpu and (devices := visible_gpus()):
            environ["CUDA_VISIBLE_DEVICES"] = devices[len(jobs) % len(devices)]
        command = [*INFERENCE_COMMAND, *(f"@{run.options_file}" for run in runs)]
        jobs.append(Job(command, [run.log for run in runs], environ))
    return jobs


def _decode_apart(runs: list[Run], threads: int, inference: Sequence[str]) -> None:
    """Do a job on a worker. Another one may be at it, too, if this one seems to be dead."""
    own = [(run, own_name(run.output_dir), own_name(run.options_file)) for run in runs]
    try:
        for run, folder, options in own:
            words = run.options_file.read_text(encoding="utf-8").splitlines()
            write_lines(options, [*words, "--output_dir", str(folder)])
        environ = {"OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
        command = [*inference, *(f"@{options}" for _, _, options in own)]
        job = Job(command, [run.log for run in runs], environ)
        run_jobs("decoding", [job], lambda: None)
        for run, folder, _ in own:
            try:
                os.rename(folder, run.output_dir)  # where an empty folder is
            except OSError:
                if run.report() is None:  # else another attempt was quicker
                    raise
    finally:
        for _, folder, options in own:
            shutil.rmtree(folder, ignore_errors=True)
            options.unlink(missing_ok=True)


def _remove_parts(plan: Plan) -> None:
    for runs in plan.runs:
        for run in runs:
            shutil.rmtree(run.output_dir)


def _report(run: Run) -> dict[str, Any]:
    report = run.report()
    if report is None:
        raise UserError(f"{run.output_dir}: the decoding has not finished", "run it again")
    return report


def merge(plan: Plan, name: str) -> dict[str, Any]:
    """Put the parts of a set together, sorted by utterance, and describe how it was decoded.

    ``text token token_int score`` of the best hypothesis go to the folder of the set as in ESPnet's
    recipes, those of the n-th best to ``<n>best_recog`` in it. Scores of an earlier decoding are
    removed.

    Raises:
        UserError: an utterance without a hypothesis, or with a NaN score.
    """
    set_dir, data = plan.out / name, plan.sets[name]
    runs = [run for runs in plan.runs for run in runs if run.set_dir == set_dir]
    reports = [_report(run) for run in runs]
    for stale in (set_dir / "result.json", set_dir / RECORD):
        stale.unlink(missing_ok=True)
    for folder in set_dir.glob("score_*"):
        shutil.rmtree(folder)
    tables: dict[Path, dict[str, str]] = {}
    for run in runs:
        for part in sorted(run.output_dir.glob("*best_recog/*")):
            rank = part.parent.name
            folder = set_dir if rank == "1best_recog" else set_dir / rank
            tables.setdefault(folder / part.name, {}).update(read_table(part))
    for path in (set_dir / "text", set_dir / "score"):
        missing = sorted(data.feats.keys() - tables.get(path, {}).keys())
        if missing:
            raise UserError(
                f"{path}: no hypothesis for {plural(len(missing), 'utterance')}: "
                f"{name_some(missing)}",
                f"see the logs in {set_dir / 'logdir'}",
            )
    scores = tables[set_dir / "score"]
    bad = [key for key in sorted(scores) if "nan" in scores[key].lower()]
    if bad:
        raise UserError(
            f"{set_dir}: the score is not a number for {plural(len(bad), 'utterance')}: "
            f"{name_some(bad)}",
            f"is {plan.asr_file} a model that has learnt? see the training log",
        )
    for path, table in tables.items():
        path.parent.mkdir(exist_ok=True)
        write_table(path, table)
    audio = sum(data.durations.values())
    decode_seconds = sum(report["decode_seconds"] for report in reports)
    options = reports[0]["options"]
    return {
        "set": name,
        "utterances": len(data.feats),
        "blank": [key for key, text in sorted(tables[set_dir / "text"].items()) if not text],
        "audio_seconds": round(audio, 3),
        "decode_seconds": round(decode_seconds, 3),
        "rtf": round(decode_seconds / audio, 5),
        "slowest_job_seconds": round(max(report["total_seconds"] for report in reports), 3),
        "jobs": len(runs),
        "threads": reports[0]["threads"],
        "device": "cuda" if plan.gpu else "cpu",
        "parameters": reports[0]["parameters"],
        "asr_exp": portable_path(plan.asr_exp),
        "checkpoint": recorded_name(plan.asr_exp, plan.asr_file),
        "checkpoint_sha256": file_digest(plan.asr_file),
        "lm_exp": portable_path(plan.lm_exp) if plan.lm_exp else None,
        "lm_checkpoint": recorded_name(plan.lm_exp, plan.lm_file)
        if plan.lm_exp and plan.lm_file
        else None,
        "ngram": portable_path(plan.ngram_file) if plan.ngram_file else None,
        "config": portable_path(plan.settings.path) if plan.settings.path else None,
        "seed": options["seed"],
        "options": {
            key: value
            for key, value in (options | asdict(plan.settings.execution)).items()
            if key not in RESERVED and value is not None
        },
        "environment": environment(),
    }


def search_options(settings: Settings) -> dict[str, Any]:
    """Return the inference config with the simple ones of its further options in it."""
    options = parse_search(settings.config, settings.words)
    return {key: options[key] for key in SEARCH_KEYS}


SEARCH_KEYS = (
    *("beam_size", "ctc_weight", "ctc_window_margin", "lm_weight", "penalty", "nbest"),
    *("maxlenratio", "minlenratio", "normalize_length"),
)


def time_lines(records: Mapping[str, Mapping[str, Any]], exp: Path) -> list[str]:
    """Return a table of how long decoding took, and the utterances that nothing was recognised of.

    Args:
        records: of the sets, as ``decode`` returns them.
        exp: experiment, whose verdict says whether the model is the cause.
    """
    verdict = read_verdict(exp)
    cause = "silence, or too short for the encoder"
    if verdict is not None and not verdict["learnt"]:
        cause = f"the model has learnt nothing, see {exp / VERDICT}"
    width = max(len("set"), *map(len, records))
    lines = [f"{'set':{width}}   utts   blank  audio s     RTF"]
    for name, record in records.items():
        lines.append(
            f"{name:{width}} {record['utterances']:6d} {len(record['blank']):7d} "
            f"{record['audio_seconds']:8.1f} {record['rtf']:7.4f}"
        )
        if record["blank"]:
            blank = name_some(record["blank"])
            lines.append(f"  nothing was recognised in {blank}: {cause}")
    return lines
