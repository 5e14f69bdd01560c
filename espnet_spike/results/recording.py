"""One utterance in a trained encoder: features, spikes of every layer, times of words.

A recording is kept beside the decoding it belongs to, so that a page can be drawn without a model.
Nothing here needs torch; `espnet_spike.results.utterance` makes recordings.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike import __version__
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.experiment import experiment_of
from espnet_spike.inference.ctc import Word
from espnet_spike.utils.archives import load_arrays
from espnet_spike.utils.files import (
    digest,
    file_digest,
    present,
    read_table,
    text_digest,
    write_bytes,
)

RECORDING = "recording.npz"  # in the folder of a decoded set
SECONDS = 4.0  # how long the utterance is that is looked for


@dataclass(frozen=True)
class LayerSpikes:
    """The spikes of one layer.

    Attributes:
        name: of the neuron layer inside the encoder.
        counts: ``(N, C)`` spikes of each frame and neuron; bins and channels on one axis.
        levels: most spikes an entry can hold.
    """

    name: str
    counts: np.ndarray
    levels: int


@dataclass(frozen=True)
class Recording:
    """One utterance in a trained encoder.

    Attributes:
        utt: its key.
        seconds: of audio.
        features: ``(F, D)``, as the model gets them.
        layers: spikes, in the order of the forward pass; empty without spiking neurons.
        events: the layers hold values that are not zero behind a FATReLU, not spikes.
        words: of the hypothesis; None where CTC cannot tell their times.
        log_gammas: layer -> natural logarithm of the decay per head ``(H,)``, for decay masks.
        frames: length of the encoder's output.
    """

    utt: str
    seconds: float
    features: np.ndarray
    layers: list[LayerSpikes] = field(default_factory=list)
    events: bool = False
    words: list[Word] | None = None
    log_gammas: dict[str, np.ndarray] = field(default_factory=dict)
    frames: int = 0


def choose_utterance(durations: dict[str, float], seconds: float = SECONDS) -> str:
    """Return the utterance whose duration is nearest to ``seconds``."""
    return min(sorted(durations), key=lambda utt: abs(durations[utt] - seconds))


@dataclass(frozen=True)
class DecodedUtterance:
    """An utterance of a decoded set, and what its recording depends on.

    Attributes:
        checkpoint: model file, in the folder of its experiment.
        set_dir: the decoded set.
        options: that it was decoded with.
        data: features of the set.
        utt: the utterance.
    """

    checkpoint: Path
    set_dir: Path
    options: Mapping[str, Any]
    data: FeatureDir
    utt: str

    @property
    def hypothesis(self) -> list[int] | None:
        """Ids of the recognised tokens; None where they are not known.

        Raises:
            UserError: the table is damaged.
        """
        path = self.set_dir / "token_int"
        if not present(path):
            return None
        try:
            return [int(token) for token in read_table(path)[self.utt].split()]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path}: {self.utt}: no ids of tokens ({error})",
                "decode the set again: --stage decode --force true",
            ) from None

    @property
    def spike_options(self) -> SpikeOptions:
        """How the encoder ran."""
        return SpikeOptions(**{f.name: self.options.get(f.name) for f in fields(SpikeOptions)})

    @property
    def digest(self) -> str:
        """Identifies what a recording of it holds, by content: times of files are of no concern.

        Raises:
            UserError: the features of the utterance are damaged.
        """
        files = [self.checkpoint, experiment_of(self.checkpoint) / "config.yaml"]
        with ArkReader() as reader:
            features = reader.read(self.utt, self.data.feats[self.utt]).tobytes()
        contents = [*map(file_digest, files), digest(features)]
        known = self.utt, self.data.durations[self.utt], self.hypothesis
        return text_digest(json.dumps([__version__, known, asdict(self.spike_options), contents]))

    def kept(self) -> Recording | None:
        """Return the recording that is kept in ``set_dir``; None if it is another, or none is."""
        return read_recording(self.set_dir / RECORDING, self.digest)

    def keep(self, recording: Recording) -> None:
        """Keep its recording in ``set_dir``."""
        write_recording(self.set_dir / RECORDING, recording, self.digest)


def write_recording(path: Path, recording: Recording, digest: str) -> None:
    """Write a recording, with the digest of what it is a recording of."""
    facts = {
        **{"of": digest, "utt": recording.utt, "seconds": recording.seconds},
        **{"events": recording.events, "frames": recording.frames},
        "words": recording.words and [asdict(word) for word in recording.words],
        "layers": [[layer.name, layer.levels] for layer in recording.layers],
        "decays": list(recording.log_gammas),
    }
    arrays: dict[str, Any] = {"features": recording.features}
    for number, layer in enumerate(recording.layers):
        arrays[f"counts{number}"] = _small(layer.counts)
    for number, decay in enumerate(recording.log_gammas.values()):
        arrays[f"decay{number}"] = decay
    arrays["facts"] = np.array(json.dumps(facts))
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, check=np.array(_check(arrays)))
    write_bytes(path, content.getvalue())


def read_recording(path: Path, digest: str) -> Recording | None:
    """Return the recording in a file; None if it is of something else, damaged, or there is none.

    One without a check sum is of an earlier version, and made anew.
    """
    try:
        arrays = load_arrays(path)
        if str(arrays.pop("check")) != _check(arrays):
            return None
        facts = json.loads(str(arrays["facts"]))
        if facts["of"] != digest:
            return None
        layers = [
            LayerSpikes(name, arrays[f"counts{number}"].astype(np.float32), levels)
            for number, (name, levels) in enumerate(facts["layers"])
        ]
        decays = {n: arrays[f"decay{number}"] for number, n in enumerate(facts["decays"])}
        words = facts["words"] and [Word(**word) for word in facts["words"]]
        more = facts["events"], words, decays, facts["frames"]
        return Recording(facts["utt"], facts["seconds"], arrays["features"], layers, *more)
    except (OSError, UserError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _check(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the digest of arrays with their names, types and shapes."""
    parts: list[str | bytes] = []
    for name, array in sorted(arrays.items()):
        parts += [f"{name} {array.dtype} {array.shape}", array.tobytes()]
    return digest(*parts)


def _small(counts: np.ndarray) -> np.ndarray:
    """Return the same numbers in as few bytes as hold them, if they are whole."""
    whole = counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
    return whole if np.array_equal(whole, counts) else counts
