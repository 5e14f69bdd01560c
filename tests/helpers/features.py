"""Small data directories of synthetic features, for tests of training."""

from pathlib import Path

import numpy as np

from espnet_spike.data.ark import ArkWriter

TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "c", "<sos/eos>"]


def write_features(
    folder: Path, utts: dict[str, str], frames_per_char: int = 12, size: int = 80, seed: int = 0
) -> Path:
    """Write feats.scp, feats_shape, text, utt2spk and an ark; each character is a spectrum."""
    rng = np.random.default_rng(seed)
    shapes = np.random.default_rng(99).standard_normal((128, size)).astype(np.float32)
    (folder / "data").mkdir(parents=True)
    ark = folder / "data" / "feats.1.ark"
    scp, lengths = [], []
    with ArkWriter(ark) as writer:
        for utt, text in sorted(utts.items()):
            frames = np.repeat(shapes[[ord(c) for c in text]], frames_per_char, axis=0)
            feats = frames + 0.3 * rng.standard_normal(frames.shape).astype(np.float32)
            scp.append(f"{utt} {ark}:{writer.write(utt, feats.astype(np.float32))}")
            lengths.append(f"{utt} {len(feats)},{size}")
    (folder / "feats.scp").write_text("".join(f"{line}\n" for line in scp))
    (folder / "feats_shape").write_text("".join(f"{line}\n" for line in lengths))
    (folder / "text").write_text("".join(f"{u} {t}\n" for u, t in sorted(utts.items())))
    (folder / "utt2spk").write_text("".join(f"{u} spk\n" for u in sorted(utts)))
    return folder


def write_tokens(path: Path) -> Path:
    """Write a character token list."""
    path.write_text("".join(f"{token}\n" for token in TOKENS))
    return path
