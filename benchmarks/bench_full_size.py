"""Two optimizer steps of each full-size configuration on real speech: memory, time, operations.

    .venv/bin/python -m benchmarks.bench_full_size --corpus_dir DIR/LibriSpeech [--resume]

Each configuration runs in a process of its own, forked when the libraries are imported: its model,
its optimizer, its SpecAug and its loss, on features of utterances as long as the corpus's mean.
``accum_grad`` is left out: a step is one batch. Targets are one token a word, drawn from the
vocabulary by the word, since a token list of full size needs the whole corpus. Losses say only that
a step is a step.

Operations are those of the products (matrix, convolution, attention) that torch runs in forward and
backward, two for a multiply-accumulate, counted in the first step; scans and neurons are not among
them.
"""

import json
import math
import multiprocessing
import sys
import tempfile
import time
import zlib
from pathlib import Path

from benchmarks.bench_train_step import resident
from benchmarks.harness import add_out, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, Parser, run

ROOT = Path(__file__).resolve().parents[1]
PART = "train-clean-100"
SECONDS = 12.3  # of a mean training utterance of LibriSpeech
CORPORA = {"librispeech960": 960, "librispeech100": 100, "aishell": 150}  # hours to train on
SPEEDS = 3  # of perturbation: an epoch hears each hour so often
FLOPS = 20e12  # a GPU's, sustained; assumed


def get_parser():
    """Return the command's parser."""
    parser = Parser(prog="benchmarks.bench_full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, required=True, help="holds train-clean-100")
    parser.add_argument("--configs", type=Path, nargs="+", help="by default all of full size")
    parser.add_argument("--batch", type=COUNT, default=2, help="utterances")
    parser.add_argument("--threads", type=COUNT, default=1)
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of an earlier run of the same batch"
    )
    add_out(parser)
    return parser


def find_configs():
    """Return the configurations of full size, corpus by corpus."""
    return [path for name in CORPORA for path in sorted(ROOT.glob(f"conf/train_*_{name}.yaml"))]


def read_batch(corpus_dir, count, fbank_config=ROOT / "conf/fbank.yaml"):
    """Return features ``(T, 80)`` and words of the utterances nearest to the mean length.

    Raises:
        UserError: the part is not there or has too few utterances.
    """
    import soundfile
    import torch

    from espnet_spike.corpora.librispeech import find_corpus, read_part
    from espnet_spike.data.fbank import load_config
    from espnet_spike.data.feature_extractor import FeatureExtractor

    folder = find_corpus(corpus_dir) / PART
    data = read_part(folder)
    seconds = {utt: soundfile.info(path).duration for utt, path in data.wav.items()}
    chosen = sorted(seconds, key=lambda utt: (abs(seconds[utt] - SECONDS), utt))[:count]
    if len(chosen) < count:
        raise UserError(f"{folder}: {len(chosen)} utterances", f"--batch {max(len(chosen), 1)}")
    feature_extractor = FeatureExtractor(16000, load_config(fbank_config))
    features = []
    for utt in chosen:
        wave, _ = soundfile.read(data.wav[utt], dtype="int16")
        features.append(torch.from_numpy(feature_extractor(wave.astype("float32"), utt)))
    return features, [data.text[utt].split() for utt in chosen]


def write_stats(features, path):
    """Write the statistics that ``global_mvn`` reads."""
    import numpy as np
    import torch

    frames = torch.cat(features).double()
    sums = {"sum": frames.sum(0).numpy(), "sum_square": frames.square().sum(0).numpy()}
    np.savez(path, count=np.array(len(frames)), **sums)


def build(path, features, folder):
    """Return the model, its optimizer, its learning rate schedule, and ESPnet's arguments."""
    from espnet2.tasks.abs_task import scheduler_classes

    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.tasks.config_check import check_training_config

    config, meta = read_training_config(path)
    args = check_training_config(SpikeASRTask, config, path, vocab_size=meta["vocab_size"]).args
    if config.get("normalize") == "global_mvn":
        write_stats(features, folder / "stats.npz")
        args.normalize = "global_mvn"
        args.normalize_conf = {"stats_file": str(folder / "stats.npz")}
    model = SpikeASRTask.build_model(args).train()
    (optimizer,) = SpikeASRTask.build_optimizers(args, model=model)
    scheduler = scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
    return model, optimizer, scheduler, args


def token_ids(words, vocabulary):
    """Return one token a word, neither blank, unknown nor end."""
    return [2 + zlib.crc32(word.encode()) % (vocabulary - 3) for word in words]


def measure(path, args):
    """Return what two steps of the configuration take in this process, a row of the table."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    features, texts = read_batch(args.corpus_dir, args.batch)
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, scheduler, conf = build(path, features, Path(folder))
    targets = [torch.tensor(token_ids(words, len(conf.token_list))) for words in texts]
    batch = {
        "speech": pad_sequence(features, batch_first=True),
        "speech_lengths": torch.tensor([len(x) for x in features]),
        "text": pad_sequence(targets, batch_first=True, padding_value=-1),
        "text_lengths": torch.tensor([len(x) for x in targets]),
    }
    built, _ = resident()
    steps = []

    def step():
        wall, cpu = time.perf_counter(), time.process_time()
        loss, _, _ = model(**{name: value.clone() for name, value in batch.items()})
        loss.sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), conf.grad_clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        times = (time.perf_counter() - wall, time.process_time() - cpu)
        steps.append((*times, float(loss.sum().detach()), float(norm)))

    with FlopCounterMode(display=False) as counted:
        step()
    step()
    _, peak = resident()
    if not all(math.isfinite(value) for values in steps for value in values):
        raise UserError(f"{path}: loss or gradient is not finite: {steps}")
    seconds = sum(map(len, features)) / 100
    return {
        "config": path.stem.removeprefix("train_"),
        "batch": args.batch,
        "speech [s]": round(seconds, 1),
        "parameters [M]": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "model [GiB]": round(built / 2**30, 2),
        "peak [GiB]": round(peak / 2**30, 2),
        "step [s]": steps[1][0],
        "step [core s]": steps[1][1],
        "GFLOP / s of speech": counted.get_total_flops() / seconds / 1e9,
        "losses": f"{steps[0][2]:.1f}, {steps[1][2]:.1f}",
    }


def measured_apart(path, args):
    """Return the row of a configuration, measured in a process forked from this one.

    Raises:
        UserError: it did not take its steps.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(measure(path, args)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise UserError(f"{path}: no two steps (status {process.exitcode})", "see above") from error


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    configs = [path.resolve() for path in args.configs or find_configs()]
    rows = []
    if args.resume and args.out is None:
        raise UserError("--resume without --out", "name the stem that the earlier run wrote")
    if args.resume and args.out.with_suffix(".json").is_file():
        rows = json.loads(args.out.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
        rows = [row for row in rows if row["batch"] == args.batch]
    if len(rows) < len(configs):
        import espnet_spike.task  # noqa: F401  once for all that are forked
    for path in configs:
        if path.stem not in {f"train_{row['config']}" for row in rows}:
            rows.append(measured_apart(path, args))
            report(rows, args)  # after every row: it takes minutes
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(report(rows, args))


def expected_hours(row):
    """Return epochs, those of fine-tuning included, and hours of one GPU for a whole training."""
    from espnet_spike.tasks.config import read_training_config

    corpus = next((hours for name, hours in CORPORA.items() if row["config"].endswith(name)), None)
    if corpus is None:
        return {}
    config, meta = read_training_config(ROOT / f"conf/train_{row['config']}.yaml")
    finetune = meta.get("sparsify", {}).get("finetune", {})
    epochs = config["max_epoch"] + finetune.get("max_epoch", 0)
    speech = corpus * SPEEDS * epochs
    return {"epochs": epochs, "GPU hours": speech * row["GFLOP / s of speech"] * 1e9 / FLOPS}


def report(rows, args):
    """Write the rows, with the hours they make of a whole training, and return the Markdown."""
    rows = [row | expected_hours(row) for row in rows]
    notes = [
        f"Batches of utterances of {PART}, about {SECONDS} s each; fp32, {args.threads} thread(s); "
        "optimizer, loss, SpecAug and normalization of the configuration, `accum_grad` left out. "
        "Memory is the resident size of the process: after building, and at its peak in two steps. "
        "Times are those of the second step; core time is processor time, the figure to go by when "
        "others use the machine. Operations are those of torch's products, forward and backward, "
        "two for a multiply-accumulate.",
        f"GPU hours = hours of the corpus x {SPEEDS} speeds x epochs x operations a second of "
        f"speech / {FLOPS / 1e12:g} TFLOP/s. That rate is an assumption (an eighth of an A100's "
        "peak in TF32), not a measurement; scans, neurons and reading are not in it.",
    ]
    facts = machine(["torch", "espnet", "numba"])
    return write_report(args.out, "Two steps of the full-size configurations", rows, facts, notes)


if __name__ == "__main__":
    run(main)
