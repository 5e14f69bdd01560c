"""Collect what the experiments of a recipe have yielded, each into its ``results.json``."""

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_spike.data.text_normalization import PROFILES, profile
from espnet_spike.errors import UserError
from espnet_spike.experiment import INFERENCE, read_config, read_epochs, read_verdict
from espnet_spike.results.energy_tables import set_counts
from espnet_spike.utils.files import present, read_lines, write_json
from espnet_spike.utils.markers import marker_path
from espnet_spike.utils.provenance import portable, portable_path
from espnet_spike.utils.shapes import check_shape, read_shaped, read_state

_logger = logging.getLogger(__name__)
RESULTS = "results.json"
EXECUTION = ("spike_mode", "T", "T_rule")  # options of how an encoder runs, of decode and count
COMMANDS = "commands.txt"  # the command lines of the user, written by run.sh


@dataclass(frozen=True)
class Rate:
    """An error rate in ``result.json``, in %, its parts, and of how much it is."""

    err: float
    corr: float
    sub: float
    deletions: float = field(metadata={"key": "del"})
    ins: float
    sentence_err: float
    sentences: int
    units: int


@dataclass(frozen=True)
class WordRate(Rate):
    """The word error rate there, with its interval."""

    ci: list[float | None]
    ci_unit: str
    ci_units: int
    ci_meaningful: bool


@dataclass(frozen=True)
class Scored:
    """What ``result.json`` of a set has to hold, written by `espnet_spike.results.scoring`."""

    utterances: int
    speakers: int
    blank_hypotheses: int
    normalization: str
    wer: WordRate
    cer: Rate
    ter: Rate


@dataclass(frozen=True)
class Normalized:
    """What older ``result.json`` hold, too."""

    normalization: str


@dataclass(frozen=True)
class Decoded:
    """What ``decode.json`` of a set has to hold, written by `espnet_spike.inference.decode`."""

    parameters: int
    rtf: float
    audio_seconds: float
    checkpoint: str
    lm_exp: str | None
    config: str | None
    jobs: int
    threads: int
    device: str
    options: dict[str, Any]
    checkpoint_sha256: str | None = None
    finished: str = ""
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Against:
    """Energy of another network there, and how many times ours it is."""

    joules_per_second: float
    ratio: float | None
    ratio_ci: list[float | None]
    ratio_ci_meaningful: bool


@dataclass(frozen=True)
class Column:
    """Energy of a set there, of arithmetic alone or with memory, and how many times less it is."""

    joules_per_second: float
    twin_joules_per_second: float
    ratio: float | None
    ratio_ci: list[float | None]
    ratio_ci_meaningful: bool
    against: dict[str, Against | None] = field(default_factory=dict)


@dataclass(frozen=True)
class PricedBy:
    """The cost model there."""

    source: str
    technology: str
    precision: str
    warnings: list[str]


@dataclass(frozen=True)
class Priced:
    """What a set takes by a cost model there."""

    model: PricedBy
    twin: str
    compute: Column
    total: Column


@dataclass(frozen=True)
class Sums:
    """Joules of an utterance there."""

    compute: float
    total: float


@dataclass(frozen=True)
class UtteranceEnergy:
    """What an utterance takes by a cost model there, of ours and of the dense twin."""

    encoder_with_front_end: Sums
    twin: Sums


@dataclass(frozen=True)
class CountedUtterance:
    """An utterance there."""

    energy: dict[str, UtteranceEnergy]


@dataclass(frozen=True)
class Counted:
    """What ``count.json`` of a set has to hold, written by `espnet_spike.counting.count`."""

    sparsity: dict[str, float | None]
    per_second: dict[str, float]
    energy: dict[str, Priced]
    uncovered: dict[str, Any]
    execution: dict[str, Any]
    fold_qk: bool
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    decoder: dict[str, Any] | None = None
    utts: dict[str, CountedUtterance] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What is wanted of a done-marker."""

    command: str


@dataclass(frozen=True)
class TrainedWith:
    """What the tables want of ``config.yaml``."""

    encoder: str
    seed: int
    max_epoch: int


@dataclass(frozen=True)
class Results:
    """What ``results.json`` of an experiment may hold, from this stage and from simulate."""

    inference_tag: str = ""
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    decodes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    simulate: dict[str, dict[str, Any]] = field(default_factory=dict)


# files of a set, what they hold, and what makes them again
SET_FILES: dict[str, tuple[type, str]] = {
    "result": (Scored, "score the set again: --stage score --stop_stage score --force true"),
    "decode": (Decoded, "decode the set again: --stage decode --force true"),
    "count": (Counted, "count the set again: --stage count --stop_stage count --force true"),
}


def read_set_file(set_dir: Path, name: str) -> dict[str, Any]:
    """Read ``result.json``, ``decode.json`` or ``count.json`` of a set.

    Raises:
        UserError: it is damaged; says what makes it again.
    """
    path = set_dir / f"{name}.json"
    content = read_shaped(path, *SET_FILES[name])
    if name == "count" and (problem := _unpriced(content)):
        raise UserError(f"{path} is damaged: {problem}", SET_FILES[name][1])
    return content


def _unpriced(count: Mapping[str, Any]) -> str:
    """Say what of the energies in a ``count.json`` does not belong together, empty if all does."""
    if lost := {"synops", "macs", "dense_macs"} - count["per_second"].keys():
        return f"per_second.{min(lost)} is missing" if count["energy"] else ""
    for model, priced in count["energy"].items():
        for column in ("compute", "total"):
            others = priced[column].get("against", {})
            for name, found in {"": priced[column], **others}.items():
                if found is not None and len(found["ratio_ci"]) != 2:
                    place = f"energy.{model}.{column}{name and f'.against.{name}'}"
                    return f"{place}.ratio_ci: not two numbers"
        for utt, counted in count.get("utts", {}).items():
            if model not in counted["energy"]:
                return f"utts.{utt}.energy: {model} is missing"
    return ""


def read_normalization(set_dir: Path) -> str:
    """Return the text normalization that a set was scored under.

    Raises:
        UserError: ``result.json`` is damaged.
    """
    return read_shaped(set_dir / "result.json", Normalized, SET_FILES["result"][1])["normalization"]


def read_results(exp_dir: Path) -> dict[str, Any]:
    """Read ``results.json`` of an experiment; nothing if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = exp_dir / RESULTS
    cure = "make it again: --stage report --force true"
    return read_shaped(path, Results, cure) if present(path) else {}


def results_to_complete(exp_dir: Path) -> dict[str, Any]:
    """Read ``results.json`` to write it anew; of a damaged one nothing is kept, with a warning."""
    try:
        return read_results(exp_dir)
    except UserError as error:
        _logger.warning(
            "%s; it is made anew. Simulated cycles come back with --stage simulate --force true",
            error.message,
        )
        return {}


@dataclass(frozen=True)
class Experiment:
    """A trained and decoded model.

    Attributes:
        path: its folder.
        config: the training configuration.
        decodes: inference tag -> set -> what its ``decode.json`` and ``result.json`` hold, as
            ``{"decode": ..., "result": ...}``, with ``count`` (of its ``count.json``) where the
            set has been counted; only sets that have been scored.
    """

    path: Path
    config: dict[str, Any]
    decodes: dict[str, dict[str, dict[str, Any]]]

    @property
    def tag(self) -> str:
        """The name of the folder without ``asr_``."""
        return self.path.name.removeprefix("asr_")

    @property
    def group(self) -> str:
        """The tag without its seed: experiments of one group differ in the seed alone."""
        return re.sub(r"_seed\d+(?=_|$)", "", self.tag)

    @property
    def parameters(self) -> int | None:
        """Parameters of the model, as counted at decoding."""
        counts = [
            entry["decode"].get("parameters")
            for sets in self.decodes.values()
            for entry in sets.values()
        ]
        return next((count for count in counts if count is not None), None)

    @property
    def newest_decode(self) -> str:
        """The inference tag that was decoded last."""
        return max(
            self.decodes,
            key=lambda tag: max(
                entry["decode"].get("finished", "") for entry in self.decodes[tag].values()
            ),
        )


def find_experiments(expdir: Path) -> list[Experiment]:
    """Read all experiments under ``expdir`` that have a scored set.

    Raises:
        UserError: there is none, or a result file is damaged.
    """
    experiments = []
    for folder in sorted(expdir.glob("asr_*")):
        if decodes := read_decodes(folder):
            experiments.append(Experiment(folder, read_trained(folder), decodes))
    if not experiments:
        raise UserError(f"no scored experiment in {expdir}", "run stages 1 to 11 first")
    return experiments


def read_trained(exp_dir: Path) -> dict[str, Any]:
    """Return the configuration of an experiment, with all that tables show of it.

    Raises:
        UserError: there is none, or it is damaged.
    """
    config = read_config(exp_dir)
    check_shape(exp_dir / "config.yaml", config, TrainedWith, "run the training stage again")
    return config


def read_decodes(exp_dir: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the scored sets of an experiment, as ``Experiment`` holds them.

    Raises:
        UserError: a file of a set is damaged, or stage 10 decoded it and ``decode.json`` is lost.
            Hypotheses of other programs have none: `not_recorded` names such sets.
    """
    decodes: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(exp_dir.glob("*/*/result.json")):
        entry = {"result": read_set_file(path.parent, "result"), "decode": {}}
        for name in ("decode", "count"):
            if present(path.parent / f"{name}.json"):
                entry[name] = read_set_file(path.parent, name)
        if not entry["decode"] and _is_of_stage_10(path.parent):
            raise UserError(
                f"{path.parent / 'decode.json'} is missing, which tells how {path.parent / 'text'} "
                "was decoded",
                SET_FILES["decode"][1],
            )
        if difference := _difference(exp_dir, entry):
            _logger.warning(
                "%s is of %s, and %s has decoded the set: it is left out; %s",
                *(path.parent / "count.json", *difference, SET_FILES["count"][1]),
            )
            del entry["count"]
        decodes.setdefault(path.parent.parent.name, {})[path.parent.name] = entry
    return decodes


def _is_of_stage_10(set_dir: Path) -> bool:
    """Return whether our decoding wrote the hypotheses: others leave no search beside the sets."""
    return present(set_dir.parent / INFERENCE) and present(set_dir / "score")


def not_recorded(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sets of a decoding of which nothing tells how they were decoded."""
    return [name for name, entry in sets.items() if not entry["decode"]]


def _difference(exp_dir: Path, entry: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Say what was counted and what was decoded, None where they agree as far as is known.

    Of files of an earlier version the content of the model file is not known.
    """
    count, decode = entry.get("count"), entry["decode"]
    if not count or not decode:
        return None
    name = decode.get("checkpoint")
    counted = count.get("checkpoint")
    if counted and name and counted != name:
        return counted, name
    digests = count.get("checkpoint_sha256"), decode.get("checkpoint_sha256")
    if all(digests) and digests[0] != digests[1]:
        return f"other weights named {counted}", f"{name} (sha256 {str(digests[1])[:12]})"
    if digests[1] and not digests[0]:
        _logger.warning(
            "%s/*/%s: a count.json does not say of which weights it is, only %s; %s",
            *(exp_dir, decode.get("set", "*"), counted or "nothing", SET_FILES["count"][1]),
        )
    ways = [count["execution"], decode.get("options", {})]
    given = [{name: way[name] for name in EXECUTION if way.get(name) is not None} for way in ways]
    if given[0] != given[1]:
        trained = read_config(exp_dir).get("encoder_conf") or {}
        ran = [execution_of(way, trained) for way in given]
        if ran[0] != ran[1]:
            first, second = (
                ", ".join(f"{name} {value}" for name, value in way.items()) or "none" for way in ran
            )
            return f"the encoder run with options {first}", f"that with options {second}"
    return None


def execution_of(given: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an encoder ran, options that are those of its training filled in."""
    ran = {name: given.get(name, trained.get(name)) for name in ("spike_mode", "T")}
    ran["spike_mode"] = ran["spike_mode"] or "integer"
    if "T" in given and given["T"] != trained.get("T"):
        ran["T_rule"] = given.get("T_rule", "keep")
    return {name: value for name, value in ran.items() if value is not None}


def set_figures(entry: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one set for ``results.json``; rates in %."""
    result, decode = entry["result"], entry["decode"]
    wer = result["wer"]
    return {
        "wer": wer["err"],
        "wer_ci": wer["ci"],
        "wer_ci_unit": wer["ci_unit"],
        "wer_ci_units": wer["ci_units"],
        "wer_ci_meaningful": wer["ci_meaningful"],
        "corr": wer["corr"],
        "sub": wer["sub"],
        "del": wer["del"],
        "ins": wer["ins"],
        "sentence_err": wer["sentence_err"],
        "cer": result["cer"]["err"],
        "cer_ci": result["cer"].get("ci"),
        "ter": result["ter"]["err"],
        "utterances": result["utterances"],
        "utterances_given": result.get("utterances_given", result["utterances"]),
        "words": wer["units"],
        "speakers": result["speakers"],
        "blank": result["blank_hypotheses"],
        "normalization": result["normalization"],
        "checkpoint": decode.get("checkpoint"),
        "rtf": decode.get("rtf"),
        "audio_seconds": decode.get("audio_seconds"),
        **(set_counts(entry["count"]) if entry.get("count") else {}),
    }


def experiment_results(experiment: Experiment, corpus_dir: Path | None = None) -> dict[str, Any]:
    """Return what this stage knows about an experiment, for its ``results.json``.

    ``sets`` has the figures of the decoding that was made last, ``decodes`` those of all.
    """
    decodes = {
        tag: {name: set_figures(entry) for name, entry in sets.items()}
        for tag, sets in experiment.decodes.items()
    }
    newest = experiment.newest_decode
    decode = next(iter(experiment.decodes[newest].values()))["decode"]
    epochs = read_epochs(experiment.path)
    config = experiment.config
    return {
        "experiment": experiment.path.name,
        "encoder": config["encoder"],
        "parameters": experiment.parameters,
        "inference_tag": newest,
        "sets": decodes[newest],
        "decodes": decodes,
        "training": {
            "config": training_config(experiment.path),
            "seed": config["seed"],
            "epochs": epochs[-1]["epoch"] if epochs else None,
            "max_epoch": config["max_epoch"],
            "seconds": round(sum(epoch.get("seconds", 0.0) for epoch in epochs), 1)
            if epochs
            else None,
        },
        "verdict": read_verdict(experiment.path),
        "checkpoint": decode.get("checkpoint"),
        "lm": decode.get("lm_exp"),
        "commands": user_commands(experiment.path, corpus_dir),
        "date": decode.get("finished"),
        "environment": decode.get("environment", {}),
    }


def write_results(experiment: Experiment, corpus_dir: Path | None = None) -> dict[str, Any]:
    """Bring ``results.json`` of an experiment up to date; keys of other stages stay in it.

    Those of sets are all of this stage: the energies of a count that is gone, or is of other
    weights now, do not stay.
    """
    merged = results_to_complete(experiment.path) | experiment_results(experiment, corpus_dir)
    write_json(experiment.path / RESULTS, merged, ensure_ascii=False)
    return merged


def training_config(exp_dir: Path) -> str | None:
    """Return the name of the YAML that the training stage was given, if run.sh did the training."""
    # what stage 9 makes of a trained model has its name and a suffix
    tag = re.sub(r"_(sparsified|naive[\d.]+)$", "", exp_dir.name.removeprefix("asr_"))
    try:
        words = shlex.split(read_state(marker_path(exp_dir.parent, f"train_{tag}"), Told).command)
    except (UserError, ValueError):
        return None
    return portable_path(Path(words[words.index("--config") + 1])) if "--config" in words else None


def user_commands(exp_dir: Path, corpus_dir: Path | None = None) -> list[str]:
    """Return the command lines that made an experiment, in order, without paths of this machine."""
    path = exp_dir / COMMANDS
    if not present(path):
        return []
    return list(dict.fromkeys(portable(line, corpus_dir) for line in read_lines(path)))


def groups(experiments: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    """Return group -> its experiments, which differ in their seed."""
    found: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        found.setdefault(experiment.group, []).append(experiment)
    return found


def scored_under(folder: Path, further: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the normalizations that decodings were scored under, each with a file that says so.

    Args:
        folder: an experiment, ``DECODING/SET/result.json`` below it; or an unpacked one, which has
            ``results.json`` instead.
        further: folders of scored sets elsewhere; one that is not scored says nothing.
    """
    found: dict[str, Path] = {}
    more = (path / "result.json" for path in further)
    for path in sorted({*folder.glob("*/*/result.json"), *filter(present, more)}):
        found.setdefault(read_normalization(path.parent), path)
    if not found and present(folder / RESULTS):
        decodes: dict[str, dict[str, Any]] = read_results(folder).get("decodes", {})
        for sets in decodes.values():
            for figures in sets.values():
                found.setdefault(figures["normalization"], folder / RESULTS)
    return found


def find_normalization(folder: Path, given: str | None = None, further: Iterable[Path] = ()) -> str:
    """Return the normalization to score with: the one given, else that of the folder's decodings.

    One that differs from theirs is logged.

    Args:
        folder, further: see `scored_under`.
        given: by the user.

    Raises:
        UserError: no such profile; or none is given, and nothing has been scored or decodings were
            scored under different ones.
    """
    found = scored_under(folder, further)
    places = ", ".join(f"{name} ({path})" for name, path in found.items())
    if given is not None:
        profile(given)
        if found and given not in found:
            _logger.warning(
                "error rates under text normalization %s do not compare with those of stage 11, "
                "which are under %s",
                *(given, places),
            )
        return given
    hint = f"give --normalization as the recipe's run.sh does, one of {', '.join(PROFILES)}"
    if not found:
        raise UserError(
            f"{folder}: nothing has been scored, so its text normalization is not known", hint
        )
    if len(found) > 1:
        raise UserError(f"{folder} was scored under several text normalizations: {places}", hint)
    return next(iter(found))
