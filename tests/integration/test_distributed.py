"""Training in two processes, as torchrun and srun start them, is training in one."""

import contextlib
import multiprocessing
import os
import socket

import pytest
import torch
import yaml

from espnet_spike.bin import asr_train, collect_stats, lm_train
from espnet_spike.experiment import read_epochs
from espnet_spike.utils.cli import run
from tests.helpers.features import write_features, write_tokens
from tests.helpers.tiny_training import CONFIG
from tests.training.test_lm import CONFIG as LM_CONFIG

pytestmark = pytest.mark.usefixtures("one_thread")

# eight utterances of different length: batches of four, two of which a process gets
TEXTS = {f"u{n}": "abcab"[: 1 + n % 5] + "c" * (n % 3) for n in range(8)}
DEV = {f"v{n}": "ba" + n * "c" for n in range(4)}
NO_DROPOUT = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
NO_DECODER_DROPOUT = NO_DROPOUT | {
    "self_attention_dropout_rate": 0.0,
    "src_attention_dropout_rate": 0.0,
}
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
ALONE = {}
BY_TORCHRUN = "--dist_backend gloo --multiprocessing_distributed false".split()
BY_SRUN = "--dist_backend gloo --dist_launcher slurm --multiprocessing_distributed true".split()


def free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return str(sock.getsockname()[1])


def torchrun(rank, port):
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    return places | {"MASTER_ADDR": "localhost", "MASTER_PORT": port}


def srun(rank, port):
    """Two nodes with a task each; ``port`` comes from the number of the job."""
    step = {"SLURM_STEP_NODELIST": "localhost,local-[2-3]", "SLURM_STEP_NUM_NODES": "2"}
    task = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"}
    return step | task | {"SLURM_NTASKS": "2", "SLURM_JOB_ID": str(int(port) % 10_000)}


def _call(main, words, environ, log):
    os.environ.update(environ)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
    # gloo's threads can outlive their group and abort an ordinary exit
    with contextlib.suppress(SystemExit):
        run(main, words)
    os._exit(0)


def call(main, words, environs, log):
    """Run a command once for each environment, in processes side by side."""
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_call, args=(main, words, environ, f"{log}.{number}")
        )
        for number, environ in enumerate(environs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def losses(exp):
    return [[epoch[part]["loss"] for part in ("train", "valid")] for epoch in read_epochs(exp)]


def weights(exp, epochs):
    return torch.load(exp / f"{epochs}epoch.pth", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and its statistics, and what one process trains for each norm."""
    path = tmp_path_factory.mktemp("distributed")
    write_features(path / "train", TEXTS)
    write_features(path / "dev", DEV, seed=1)
    write_tokens(path / "tokens.txt")
    change = {
        "encoder": "iml_spikeformer",
        "decoder_conf": CONFIG["decoder_conf"] | NO_DECODER_DROPOUT,
        # a difference in the last bit must not flip a spike
        "train_dtype": "float64",
        "batch_type": "sorted",
        "batch_size": 4,
    }
    for norm in ("ln", "bn"):
        change["encoder_conf"] = SIZES | NO_DROPOUT | {"norm": norm}
        (path / f"{norm}.yaml").write_text(yaml.safe_dump(CONFIG | change))
    stats = ["--asr_config", f"{path}/ln.yaml", "--output_dir", f"{path}/stats"]
    collect_stats.main([*stats, *data(path)])
    for norm in ("ln", "bn"):
        call(asr_train.main, words(path, norm, norm), [ALONE], path / f"{norm}.log")
    return path


def data(path):
    words = ["--train_dir", f"{path}/train", "--valid_dir", f"{path}/dev"]
    return [*words, "--token_list", f"{path}/tokens.txt", "--token_type", "char"]


def words(path, norm, exp):
    words = ["--config", f"{path}/{norm}.yaml", "--stats_dir", f"{path}/stats"]
    return [*words, *data(path), "--output_dir", f"{path}/{exp}"]


@pytest.mark.parametrize(
    ("norm", "start", "how"),
    [("ln", torchrun, BY_TORCHRUN), ("bn", torchrun, BY_TORCHRUN), ("ln", srun, BY_SRUN)],
)
def test_two_processes_train_what_one_does(folder, norm, start, how):
    port = free_port()
    environs = [start(rank, port) for rank in range(2)]
    one, two = folder / norm, folder / f"{norm}_{start.__name__}"
    call(asr_train.main, [*words(folder, norm, two.name), *how], environs, f"{two}.log")
    assert (two / "train.rank1.log").exists()
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-5)
    expected, found = weights(one, 2), weights(two, 2)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_two_processes_train_a_language_model(tmp_path):
    (tmp_path / "train").write_text("".join(f"u{i} ab c{'ba' * i}\n" for i in range(6)))
    (tmp_path / "valid").write_text("v1 ab\nv2 cab\n")
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(LM_CONFIG | {"batch_bins": 60}))
    write_tokens(tmp_path / "tokens.txt")
    words = ["--lm_config", f"{tmp_path}/lm.yaml", "--train_text", f"{tmp_path}/train"]
    words += ["--valid_text", f"{tmp_path}/valid", "--token_list", f"{tmp_path}/tokens.txt"]
    words += ["--token_type", "char", "--stats_dir", f"{tmp_path}/stats", *BY_TORCHRUN]
    port = free_port()
    environs = [torchrun(rank, port) for rank in range(2)]
    lm = ["--output_dir", f"{tmp_path}/lm"]
    call(lm_train.main, [*words, *lm], environs, tmp_path / "lm.log")
    assert len(read_epochs(tmp_path / "lm")) == 2
