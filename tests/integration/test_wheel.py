"""The package works from its wheel alone: no checkout, another environment, a path with a space.

The wheel is built and installed offline. Its environment borrows the dependencies of this one
through a .pth file, all but the editable install. Commands are
children of one process there that has imported ESPnet, to pay for that once.
"""

import ensurepip
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers.data_dirs import make_data_dir

PRETRAINED = "egs/fsdd/pretrained"
pytestmark = pytest.mark.xdist_group("wheel")  # one build, one environment
SOURCES = ("espnet_spike", "conf", "pyproject.toml", "README.md", "LICENSE", PRETRAINED)
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
RUNNER = """
import json, os, sys

import espnet2.bin.asr_inference
import espnet_spike.task
from espnet_spike.__main__ import main

for words in json.load(open(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{words[0]}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["espnet-spike", *words]
        main()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        sys.exit(f"espnet-spike {' '.join(words)}: {status}\\n" + open(f"{words[0]}.err").read())
"""
TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGHIJORW", "<sos/eos>"]
CONFIG = {
    "encoder": "iml_spikeformer",
    "encoder_conf": {
        **{"output_size": 16, "num_blocks": 1, "attention_heads": 2, "linear_units": 32},
    },
    "model_conf": {"ctc_weight": 1.0},
    "normalize": "global_mvn",
    "optim": "adam",
    "optim_conf": {"lr": 0.01},
    "batch_type": "unsorted",
    "batch_size": 4,
    "num_workers": 0,
    "max_epoch": 1,
    "num_att_plot": 0,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """The wheel, built from a copy of the sources, for a build leaves its folders there."""
    sources = tmp_path_factory.mktemp("the sources")
    for name in SOURCES:
        if (root / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, sources / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(root / name, sources)
    out = tmp_path_factory.mktemp("the wheel")
    command = [sys.executable, "-c", BUILD, str(out)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel in it; its interpreter."""
    folder = tmp_path_factory.mktemp("an environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    # pip runs out of its wheel, which takes less time than to install it
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    words = [python, pip / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(words, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = Path(sysconfig.get_path("purelib"))
    (packages / "a_lender.pth").write_text(f"{lent}\n")  # before those that it lends
    for path in lent.glob("*.pth"):  # setuptools' puts distutils back, which ESPnet imports
        if not path.name.startswith("__editable__"):
            shutil.copy(path, packages)
    return python


@pytest.fixture
def run(environment, tmp_path, monkeypatch):
    """Runs a program of that environment in an empty folder, without the checkout in sight."""
    work = tmp_path / "my work"
    work.mkdir()
    monkeypatch.chdir(work)
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["OMP_NUM_THREADS"] = "1"

    def call(program, *words):
        done = subprocess.run(
            [environment.with_name(program), *words], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_holds_the_files_that_are_no_modules(wheel, root):
    held = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"espnet_spike/{path.relative_to(root)}" for path in root.glob("conf/**/*.yaml")}
    sources = root.glob("espnet_spike/simulator/*/*.*")
    hardware = {str(path.relative_to(root)) for path in sources if path.suffix != ".pyc"}
    assert len(conf) > 20 and len(hardware) > 10
    models = {f"espnet_spike/pretrained/{p.name}" for p in (root / PRETRAINED).glob("*.zip")}
    assert models and conf | hardware | models | {"espnet_spike/py.typed"} <= held
    modules = {str(path.relative_to(root)) for path in root.glob("espnet_spike/**/*.py")}
    assert modules == {name for name in held if name.endswith(".py")}


def test_it_runs_without_a_checkout(run, environment):
    where = run("python", "-c", "import espnet_spike; print(espnet_spike.__file__)").strip()
    assert Path(where).is_relative_to(environment.parents[1])
    run("python", "-m", "espnet_spike.bin.check_environment")
    assert "transcribe" in run("espnet-spike", "--help").splitlines()


def test_train_pack_transcribe_and_count(run):
    data = make_data_dir(Path("data/train"), {f"u{number}": 1.0 for number in range(4)})
    Path("tokens.txt").write_text("\n".join(TOKENS) + "\n")
    Path("train.yaml").write_text(yaml.safe_dump(CONFIG))
    sets = "--train_dir dump/train --valid_dir dump/train --token_list tokens.txt --token_type char"
    commands = [
        "list_encoders",
        "describe --asr_config conf/train_iml_spikeformer.yaml --json",
        "fbank --config conf/fbank.yaml data/train dump/train",
        f"collect_stats --asr_config train.yaml {sets} --output_dir exp/stats",
        f"asr_train --config train.yaml {sets} --stats_dir exp/stats --output_dir exp/asr_x",
        "pack --asr_exp exp/asr_x --inference_config conf/decode_asr.yaml "
        "--inference_args '--ctc_weight 1.0' --out pack.zip",
        f"transcribe --model pack.zip --format json '{data.wav['u0']}'",
        "count --asr_exp exp/asr_x --out exp/asr_x/decode train=dump/train",
    ]
    Path("commands.json").write_text(json.dumps([shlex.split(command) for command in commands]))
    run("python", "-c", RUNNER, "commands.json")
    listed = Path("list_encoders.out").read_text().split("\n\n")[0]
    encoders = dict(line.split() for line in listed.splitlines())
    assert encoders["iml_spikeformer"] == "espnet_spike" and encoders["conformer"] == "espnet"
    assert json.loads(Path("describe.out").read_text())["encoder_name"] == "iml_spikeformer"
    assert json.loads(Path("exp/asr_x/epochs.jsonl").read_text())["applied"] == 1  # updates
    assert json.loads(Path("transcribe.out").read_text())["name"] == "u0"
    counted = json.loads(Path("exp/asr_x/decode/train/count.json").read_text())
    assert counted["environment"]["git"] == "not a git checkout"
