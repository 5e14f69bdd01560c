"""What commands import: those without a network neither torch nor ESPnet, all others no more than
they need. Import of a package is seen in ``sys.modules``, of a process that runs nothing else.
"""

import json
import subprocess
import sys

import pytest

from espnet_spike.bin import check_config, count
from tests.bin.test_commands import COMMANDS, PLAIN
from tests.conftest import ROOT
from tests.export.test_reparameterize import MODEL
from tests.helpers import pages
from tests.helpers.experiments import make_experiment
from tests.helpers.tiny_model import TOKENS

# runs commands one after the other; says after each which of the packages are loaded
RUNNER = """
import contextlib, io, json, sys
from importlib import import_module

calls, packages, out = json.loads(sys.argv[1])
found = {}
for name, *words in calls:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        import_module(f"espnet_spike.bin.{name}").main(words)
    # a module that waits to be loaded is of another class
    loaded = [p for p in packages if type(sys.modules.get(p)).__name__ == "module"]
    found[" ".join([name, *words])] = loaded
with open(out, "w") as file:
    json.dump(found, file)
"""
NETWORKS = ["torch", "espnet2", "numba", "scipy", "librosa", "transformers"]
SELDOM = ["espnet2.gan_tts", "scipy.stats", "scipy.signal", "hydra"]
COMPILER = ["torch._dynamo", "sympy"]


def run(calls, packages, folder):
    """Run commands in one process; return which packages each leaves loaded."""
    out = folder / "loaded.json"
    words = json.dumps([[list(map(str, call)) for call in calls], packages, str(out)])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_no_help_needs_a_network_or_drawing(tmp_path):
    calls = [[name, "--help"] for name in COMMANDS if name not in PLAIN]
    found = run(calls, [*NETWORKS, "matplotlib", "soundfile"], tmp_path)
    assert len(found) == len(calls)
    assert not {call: loaded for call, loaded in found.items() if loaded}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with a decoded, counted experiment, and a checked configuration."""
    root = tmp_path_factory.mktemp("recipe")
    (root / "exp" / "asr_a").mkdir(parents=True)
    exp, data = pages.decoded(root / "exp" / "asr_a")
    decode = {"checkpoint": MODEL, "options": {}, "rtf": 0.1, "audio_seconds": 12.0}
    decode |= {"parameters": 1, "jobs": 1, "threads": 1, "device": "cpu", "lm_exp": None}
    decode |= {"config": None, "finished": "2026-01-01T00:00:00+0000", "environment": {}}
    (exp / "decode" / "test" / "decode.json").write_text(json.dumps(decode))
    count.main(["--asr_exp", str(exp), "--out", str(exp / "decode"), f"test={data}"])
    make_experiment(root, "b", {"u00": "one two two"})
    (root / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    check_config.main(checks(root))
    return root, exp, data


def checks(root, *more):
    words = ["--asr_config", str(ROOT / "egs/fsdd/conf/train_iml_spikeformer.yaml")]
    words += ["--inference_config", str(ROOT / "conf/decode_asr.yaml")]
    return [*words, "--cache", str(root / "checked.json"), *more]


def test_what_needs_no_network_imports_none(recipe):
    root, exp, data = recipe
    other = root / "exp" / "asr_b"
    tokens = ["--token_list", root / "tokens.txt", "--token_type", "char"]
    calls = [
        ["list_encoders"],
        ["list_decoders"],
        ["experiment_tag", "--config", "conf/x.yaml"],
        ["run_stage", *"--stage 1 --name x --expdir exp --dry_run -- true".split()],
        ["check_config", *checks(root)],
        ["score", "--out", exp / "decode", *tokens, f"test={data}"],
        ["report", "--expdir", root / "exp", "--corpus", "x", "--out", root / "RESULTS.md"],
        ["compare", other, other],
        ["compare_decodes", other / "decode", other / "decode"],
        ["html_report", "--asr_exp", exp, "--inference_tag", "decode", f"test={data}"],
        ["simulate", "--check"],
    ]
    found = run(calls, NETWORKS, root)
    assert len(found) == len(calls)
    assert not {call: loaded for call, loaded in found.items() if loaded}
    assert "features and spikes of" in (exp / "report.html").read_text()


def test_a_model_of_ours_is_described_without_the_task(tmp_path):
    calls = [["describe", "--asr_config", ROOT / "conf/train_iml_spikeformer.yaml"]]
    packages = ["torch", "espnet2.tasks", "numba", "scipy", *COMPILER]
    assert [*run(calls, packages, tmp_path).values()] == [["torch"]]


def test_a_model_is_built_checked_and_run_without_what_espnet_seldom_needs(recipe):
    root, exp, data = recipe
    calls = [
        ["check_config", *checks(root, "--asr_args", "--max_epoch 3")],
        ["describe", "--asr_config", ROOT / "conf/train_conformer.yaml"],
        ["pack", "--asr_exp", exp, "--out", root / "pack.zip", "--inference_args", "--beam_size 2"],
    ]
    found = run(calls, ["espnet2.tasks.asr", *SELDOM, *COMPILER], root)
    assert [*found.values()] == [["espnet2.tasks.asr"]] * len(calls)
    # the dense twin is counted on the meta device, and the proof watches every operator of torch:
    # both need what torch's compiler is made of
    calls = [
        ["count", "--asr_exp", exp, "--out", exp / "decode", f"test={data}"],
        ["prove_spikes", "--asr_exp", exp, f"test={data}"],
    ]
    assert [*run(calls, SELDOM, root).values()] == [[]] * len(calls)
