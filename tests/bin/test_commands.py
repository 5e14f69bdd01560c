"""Every command: its help, a good call and a bad one; what is right of each is tested elsewhere."""

import argparse
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import espnet_spike.bin
from espnet_spike.utils import cli
from tests.conftest import ROOT
from tests.helpers.data_dirs import make_data_dir

COMMANDS = sorted(
    path.stem for path in Path(espnet_spike.bin.__file__).parent.glob("*.py") if path.stem[0] != "_"
)
# runs where nothing else of the package does, so without its parser
PLAIN = {"check_environment"}


def call(command, *words):
    """Run a command as its own process would; return its exit status."""
    with pytest.raises(SystemExit) as left:
        cli.run(import_module(f"espnet_spike.bin.{command}").main, list(map(str, words)))
    return left.value.code


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in PLAIN])
def test_help(command, capsys):
    module = import_module(f"espnet_spike.bin.{command}")
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    assert module.__doc__ and module.main.__doc__
    parser = module.get_parser()
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            name = (action.option_strings or [action.metavar or action.dest])[0]
            assert name.split()[0] in shown
            assert action.help, f"{command} {name} has no help"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in PLAIN])
def test_numbers_have_ranges(command, capsys):
    """A number out of range is refused by the words alone, before a file is looked at."""
    for action in import_module(f"espnet_spike.bin.{command}").get_parser()._actions:
        assert action.type not in (int, float), f"{action.dest}: which numbers are meant?"
        if not isinstance(action.type, cli.Ranged):
            continue
        name = action.option_strings[0]
        for word in ("-1", "nan", "inf", "-inf"):
            assert call(command, f"{name}={word}") == 2
            assert f"argument {name}" in capsys.readouterr().err.replace(f"{name}/", f"{name} ")


BAD = {
    "asr_inference": ([], 1, "nothing to decode"),
    "asr_train": (["--confg", "x"], 2, "required: --asr_config"),
    "check_config": (["--asr_config", "none.yaml"], 1, "no such configuration file: none.yaml"),
    "collect_stats": (["--asr_config", "x"], 2, "required: --train_dir, --valid_dir"),
    "compare": (["none"], 1, "none has no results.json"),
    "compare_decodes": (["one"], 1, "give two folders"),
    "copy_feats": (["one"], 2, "directories come in pairs"),
    "count": (["--asr_exp", "none", "--out", "o", "test"], 1, "'test' is not NAME=DIR"),
    "decode": (["--asr_exp", "none", "--out", "o", "test=none"], 1, "none: no such folder"),
    "decode_sherpa": (
        ["--onnx", "none", "--data_dir", "none", "--out", "o"],
        1,
        "none/model.onnx: missing",
    ),
    "describe": (["--asr_config", "none.yaml"], 1, "no such configuration file: none.yaml"),
    "experiment_tag": (["--config", "c.yaml", "--args", "--key '"], 1, "check the quotes"),
    "explore": (["--asr_exp", "none", "--data_dir", "none", "--gird", "x"], 2, "--grid"),
    "export_nir": (["--asr_exp", "none", "--out", "x.nir"], 2, "required: --data_dir"),
    "export_onnx": (
        ["--asr_exp", "none", "--out", "o", "--check_dir", "none"],
        1,
        "--check_dir none: no such folder",
    ),
    "fbank": (["--config", "c.yaml", "a", "b", "--nj", "0"], 2, "--nj: 0 is out of range"),
    "format_audio": (
        ["a", "b", "--fs", "16"],
        2,
        "--fs: 16 is out of range",
    ),
    "filter_utts": (["d", "d"], 2, "d and d are the same directory"),
    "html_report": (["--asr_exp", "e", "--inference_tag", "t", "test"], 1, "is not NAME=DIR"),
    "list_decoders": (["--decoder"], 2, "unrecognized arguments: --decoder"),
    "list_encoders": (["--encoder"], 2, "unrecognized arguments: --encoder"),
    "lm_train": (["--lm_config", "x"], 2, "required: --train_text, --valid_text"),
    "naive_sparse": (
        ["--asr_exp", "e", "--train_dir", "d", "--output_dir", "o", "--sparsity", "1"],
        1,
        "0 < sparsity < 1",
    ),
    "new_recipe": (["a/b", "--train", "x.csv"], 1, "is no name for a recipe"),
    "ngram_train": (
        ["--train_text", "t", "--token_list", "none", "--token_type", "char", "--out", "o"],
        1,
        "none",
    ),
    "pack": (["--asr_exp", "e", "--out", "pack.rar"], 1, "end the name with .zip or .tgz"),
    "perturb_data_dir": (["d", "e", "--factors", "9"], 1, "expected a number from 0.5 to 2"),
    "prepare_data_dir": (["none"], 1, "none"),
    "prove_spikes": (["--asr_exp", "e", "test"], 1, "'test' is not NAME=DIR"),
    "published_energy": (["--ratio", "1"], 1, "give one ratio a config"),
    "reparameterize": (["--asr_exp", "e", "--out", "o"], 2, "required: --data_dir"),
    "report": (["--expdir", "none"], 2, "required: --corpus, --out"),
    "run_stage": (
        ["--stage", "1 x", "--name", "x", "--expdir", "exp", "--", "false"],
        1,
        "stage 1 x failed (status 1)",
    ),
    "score": (["--out", "o", "--token_type", "char", "test=none"], 2, "required: --token_list"),
    "simulate": (["--utterances", "many"], 2, "invalid int value: 'many'"),
    "sparsify": (["--steps", "train"], 2, "argument --steps"),
    "stream": (
        ["--asr_exp", "e", "--chunk_ms", "0", "x.wav"],
        2,
        "--chunk_ms: 0 is out of range",
    ),
    "sweep": (["--asr_exp", "e", "--out", "o", "test=d"], 1, "nothing to sweep"),
    "tokenize": (
        ["--text", "none", "--out", "o", "--nbpe", "0"],
        2,
        "--nbpe: 0 is out of range",
    ),
    "transcribe": (["--model", "m", "x.wav", "--max_seconds", "0"], 2, "--max_seconds: 0 is"),
}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in PLAIN])
def test_a_bad_call_says_what_is_wrong(command, capfd, tmp_path, monkeypatch):
    """With status 2 for the words themselves, 1 for what they name; never with a traceback."""
    monkeypatch.chdir(tmp_path)
    words, status, said = BAD[command]
    assert call(command, *words) == status
    errors = capfd.readouterr().err
    assert said in errors
    assert "Traceback" not in errors
    assert "error: " in errors
    assert not list(tmp_path.glob("o*"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a data directory, its features, and tokens."""
    monkeypatch.chdir(tmp_path)
    make_data_dir(tmp_path / "data", {"a": 0.5, "b": 0.7, "c": 0.6})
    assert call("fbank", "--config", ROOT / "conf/fbank.yaml", "data", "feats") == 0
    return tmp_path


# a call, and a file that it has to make
GOOD = {
    "copy_feats": (["feats", "copy"], "copy/feats.scp"),
    "experiment_tag": (["--config", "conf/train_x.yaml", "fbank"], None),
    "fbank": (["--config", ROOT / "conf/fbank.yaml", "data", "again"], "again/feats.scp"),
    "filter_utts": (["feats", "kept"], "kept/feats.scp"),
    "format_audio": (["data", "raw"], "raw/feats.scp"),
    "list_decoders": ([], None),
    "list_encoders": ([], None),
    "new_recipe": (
        ["mine", "--train", "data", "--egs", "egs", "--trial_updates", "0"],
        "egs/mine/run.sh",
    ),
    "perturb_data_dir": (["data", "data_sp", "--factors", "0.9 1.0"], "data_sp/utt2speed"),
    "prepare_data_dir": (["data"], "data/spk2utt"),
    "run_stage": (
        ["--stage", "1 x", "--name", "x", "--expdir", "exp", "--", "true"],
        "exp/.done/x.json",
    ),
    "tokenize": (
        ["--token_type", "char", "--text", "data/text", "--out", "tokens"],
        "tokens/tokens.txt",
    ),
}


@pytest.mark.parametrize("command", GOOD)
def test_a_good_call(command, here):
    words, made = GOOD[command]
    assert call(command, *words) == 0
    assert made is None or (here / made).stat().st_size > 0


def test_the_others_are_called_where_they_are_tested():
    """Those that need a trained model, ESPnet or a simulator."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__) and path.name not in ("test_layers.py", "test_experiment.py")
    ]
    imported = (
        r"from espnet_spike\.bin import [^\n]*\b{0}\b|from espnet_spike\.bin\.{0} import main"
    )
    started = r"\"-m\", \"espnet_spike\.bin\.{0}\""
    missing = []
    for command in set(COMMANDS) - set(GOOD):
        called = re.compile(f"{imported}|{started}".format(command))
        if not any(called.search(text) for text in texts):
            missing.append(command)
    assert not missing


def test_no_command_is_forgotten():
    assert set(GOOD) < set(COMMANDS)
    assert set(COMMANDS) == set(BAD) | PLAIN


def test_what_the_tag_and_the_encoders_print(capsys):
    assert call("experiment_tag", "--config", "conf/train_x.yaml", "--args", "--T 4", "fbank") == 0
    assert capsys.readouterr().out == "x_fbank_T4\n"
    assert call("list_encoders") == 0
    assert "iml_spikeformer" in capsys.readouterr().out
    assert call("list_decoders") == 0
    assert "speech_mamba" in capsys.readouterr().out


def test_features_come_through_the_commands(here):
    """What one command writes the next one reads."""
    from espnet_spike.data.ark import ArkReader
    from espnet_spike.data.feature_dir import FeatureDir

    assert call("copy_feats", "feats", "copy") == 0
    assert call("filter_utts", "--min_frames", "50", "copy", "kept") == 0
    kept = FeatureDir.read(here / "kept")
    assert set(kept.feats) == {"b", "c"}
    with ArkReader() as reader:
        for utt, place in kept.feats.items():
            expected = reader.read(utt, FeatureDir.read(here / "feats").feats[utt])
            np.testing.assert_array_equal(reader.read(utt, place), expected)


# command, its options in today's words and in those of before: both are the same
TRAINING = "--train_dir d --valid_dir v --stats_dir s --token_list t --output_dir o"
SAME = [
    ("asr_train", f"--asr_config c.yaml {TRAINING}", f"--config c.yaml {TRAINING}"),
    (
        "sparsify",
        f"--asr_config c.yaml --asr_exp e {TRAINING}",
        f"--config c.yaml --asr_exp e {TRAINING}",
    ),
    ("fbank", "--fbank_config c.yaml d e", "--config c.yaml d e"),
    ("fbank", "--fbank_config=c.yaml d e", "d e --config=c.yaml"),
    ("count", "--asr_exp e --output_dir o test=d", "--asr_exp e --out o test=d"),
    ("decode", "--asr_exp e --output_dir o --nj 3 t=d", "--asr_exp e --out o --inference_nj 3 t=d"),
    (
        "decode",
        "--asr_exp e --output_dir o --utterances_per_task 9 t=d",
        "--asr_exp e --out o --utterances_a_task 9 t=d",
    ),
    ("sweep", "--asr_exp e --output_dir o t=d", "--asr_exp e --out o t=d"),
    (
        "score",
        "--output_dir o --token_type char --token_list l t=d",
        "--out o --token_type char --token_list l t=d",
    ),
    ("tokenize", "--text t --output_dir o", "--text t --out o"),
    ("transcribe", "--asr_exp e --output_dir o a.wav", "--model e --out o a.wav"),
    ("export_onnx", "--asr_exp e --output_dir o", "--asr_exp e --out o"),
    (
        "export_nir",
        "--asr_exp e --inference_asr_model m --data_dir d --out x.nir",
        "--asr_exp e --asr_model_file m --data_dir d --out x.nir",
    ),
    (
        "reparameterize",
        "--asr_exp e --inference_asr_model m --data_dir d --output_dir o",
        "--asr_exp e --asr_model_file m --data_dir d --out o",
    ),
    (
        "prove_spikes",
        "--asr_exp e --inference_asr_model m t=d",
        "--asr_exp e --asr_model_file m t=d",
    ),
    ("decode_sherpa", "--onnx x --data_dir d --output_dir o", "--onnx x --data_dir d --out o"),
    ("copy_feats", "--utterances_per_task 9 d e", "--utterances_a_task 9 d e"),
    ("compare", "--asr_exp e f --inference_tag t", "--inference_tag t e f"),
]


@pytest.mark.parametrize(("command", "words", "before"), SAME)
def test_one_word_for_one_thing_and_those_of_before(command, words, before):
    parser = import_module(f"espnet_spike.bin.{command}").get_parser()
    assert parser.parse_args(words.split()) == parser.parse_args(before.split())


# what a finished training is known by holds the names of all its options' destinations
SHARED = (
    "bpemodel deterministic dist_backend dist_init_method dist_launcher dist_master_addr "
    "dist_master_port dist_rank dist_world_size local_rank multiprocessing_distributed ngpu "
    "output_dir seed token_list token_type"
)


# added since: not there when not given, or taken out before a training is known by the rest
LATER = {"twin", "require_learnt", "verbose"}


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("asr_train", "asr_args config num_splits stats_dir train_dir valid_dir"),
        ("sparsify", "asr_args asr_exp config num_splits stats_dir steps train_dir valid_dir"),
        ("lm_train", "lm_args lm_config stats_dir train_text valid_text"),
        ("collect_stats", "asr_args asr_config num_splits train_dir valid_dir"),
    ],
)
def test_a_finished_training_stays_known(command, own):
    parser = import_module(f"espnet_spike.bin.{command}").get_parser()
    names = {action.dest for action in parser._actions} - {"help", *LATER}
    assert names == set(f"{SHARED} {own}".split())


# names that the help of no command shows but of these, where they mean something else
OTHER_WORDS = {
    "--config": {"experiment_tag"},  # of training or of decoding
    "--model": set(),
    "--asr_model_file": set(),
    "--inference_nj": set(),
    "--utterances_a_task": set(),
    "--out": {"export_nir", "html_report", "ngram_train", "pack", "report"},  # a file
}


def test_every_help_speaks_the_same_language():
    wrong = []
    for command in set(COMMANDS) - PLAIN:
        parser = import_module(f"espnet_spike.bin.{command}").get_parser()
        for name in {name for action in parser._actions for name in action.option_strings}:
            if command not in OTHER_WORDS.get(name, {command}):
                wrong.append(f"{command} {name}")
    assert not wrong


def test_an_experiment_is_given_once(capsys):
    assert call("compare", "a", "--asr_exp", "b") == 2
    assert "EXP and --asr_exp: give one of the two" in capsys.readouterr().err
    assert call("compare", "--csv", "x.csv") == 2
    assert "required: EXP" in capsys.readouterr().err


def test_an_old_name_must_not_be_another_option():
    parser = cli.Parser()
    parser.add_argument("--out")
    with pytest.raises(ValueError, match="--out is an option already"):
        parser.add_argument("--output_dir", old=["--out"])
