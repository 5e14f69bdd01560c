"""A tiny ESPnet model that has learnt synthetic speech, for tests of decoding and packing.

Every letter sounds as eight frames of its own fixed spectrum, with some noise, and no letter
follows itself. A very small Transformer learns that in seconds.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from espnet_spike.data.ark import ArkWriter
from espnet_spike.data.feature_dir import FeatureDir

LETTERS = "abcde"
TOKENS = ["<blank>", "<unk>", "<space>", *LETTERS, "<sos/eos>"]
FRAMES_A_LETTER = 8
DIMENSION = 24
_SPECTRA = np.random.default_rng(7).normal(size=(len(LETTERS) + 1, DIMENSION)) * 2


def speak(text: str, rng: np.random.Generator) -> np.ndarray:
    """Return features (T, 24) of a text; a space is a spectrum like the letters."""
    rows = [_SPECTRA[LETTERS.find(letter)] for letter in text for _ in range(FRAMES_A_LETTER)]
    return (np.stack(rows) + 0.5 * rng.normal(size=(len(rows), DIMENSION))).astype(np.float32)


def make_texts(count: int, seed: int) -> dict[str, str]:
    """Return utterance -> one to three words of two to four letters."""
    rng = np.random.default_rng(seed)
    return {
        f"utt{seed}_{number:03d}": " ".join(
            "".join(rng.permutation(list(LETTERS))[: rng.integers(2, 5)])
            for _ in range(rng.integers(1, 4))
        )
        for number in range(count)
    }


def write_features(folder: Path, texts: dict[str, str], seed: int, seconds: float = 60.0) -> Path:
    """Write a feature directory; ``seconds`` is what ``utt2dur`` says of each utterance."""
    rng = np.random.default_rng(seed)
    data = FeatureDir(
        text=texts,
        utt2spk={utt: f"spk{number % 3}" for number, utt in enumerate(sorted(texts))},
        durations=dict.fromkeys(texts, seconds),
    )
    folder.mkdir(parents=True)
    with ArkWriter(folder / "feats.ark") as ark:
        for utt, text in texts.items():
            matrix = speak(text, rng)
            data.feats[utt] = f"{folder / 'feats.ark'}:{ark.write(utt, matrix)}"
            data.shapes[utt] = matrix.shape
    data.write(folder)
    return folder


CONFIG = {
    "encoder": "transformer",
    "encoder_conf": {
        **{"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 1},
        **{"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0},
        "input_layer": "conv2d",
    },
    "decoder": "transformer",
    "decoder_conf": {
        **{"attention_heads": 2, "linear_units": 64, "num_blocks": 1, "dropout_rate": 0.0},
        **{"positional_dropout_rate": 0.0, "self_attention_dropout_rate": 0.0},
        "src_attention_dropout_rate": 0.0,
    },
    "model": "espnet",
    "model_conf": {"ctc_weight": 0.5},
    "frontend": None,
    "normalize": None,
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}


@cache
def tiny_experiment() -> Path:
    """Train once a process and return ``exp/asr_tiny`` in a folder of its own."""
    import torch
    import yaml
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    torch.set_num_threads(1)  # more of them stand in each other's way beside other tests
    root = Path(tempfile.mkdtemp(prefix="tiny model "))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    exp = root / "exp" / "asr_tiny"
    exp.mkdir(parents=True)
    (root / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    words = ["--output_dir", str(exp), "--token_list", str(root / "tokens.txt")]
    words += ["--token_type", "char", "--input_size", str(DIMENSION), "--seed", "3"]
    args = parse_espnet(SpikeASRTask, CONFIG, words)
    torch.manual_seed(3)
    model: ESPnetASRModel = SpikeASRTask.build_model(args)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    texts = make_texts(192, seed=1)
    rng = np.random.default_rng(1)
    for start in [*range(0, 192, 16)] * 14:
        chosen = list(texts.values())[start : start + 16]
        feats = [torch.from_numpy(speak(text, rng)) for text in chosen]
        ids = [
            torch.tensor([TOKENS.index("<space>" if c == " " else c) for c in t]) for t in chosen
        ]
        loss, *_ = model(
            speech=torch.nn.utils.rnn.pad_sequence(feats, batch_first=True),
            speech_lengths=torch.tensor([len(x) for x in feats]),
            text=torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1),
            text_lengths=torch.tensor([len(x) for x in ids]),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), exp / "valid.cer_ctc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return exp
