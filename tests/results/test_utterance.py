"""One utterance in a trained model: its words are those that a transcript has."""

import shutil

import pytest
import yaml

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.inference.recognizer import Recognizer
from espnet_spike.results.utterance import record
from tests.helpers.tiny_model import DIMENSION, make_texts, tiny_experiment, write_features

pytestmark = pytest.mark.xdist_group("tiny_model")
# token type, tokens 3 to 7 of the model, what was recognised (2 is <space>), its words
WORDS = {
    "Chinese": ("char", "今天气好吗", [3, 4, 4, 5], "今 天 天 气"),
    "Chinese and Latin": ("char", "今AB天气", [3, 4, 5, 6, 2, 7], "今 AB 天 气"),
    "Latin": ("char", "ABCDE", [3, 4, 2, 5, 6], "AB CD"),
    "bpe": ("bpe", ["▁A", "B", "▁", "C", "▁D"], [3, 4, 5, 6, 7], "AB C D"),
    "bpe, Chinese": ("bpe", ["▁今", "天", "气", "▁A", "B"], [3, 4, 5, 6, 7], "今 天 气 AB"),
    "nothing": ("char", "ABCDE", [], ""),
    "word": ("word", ["ONE", "TWO", "今天", "X", "Y"], [3, 4, 5, 6], "ONE TWO 今天 X"),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_report_has_the_words_of_a_transcript(tmp_path, name):
    kind, letters, said, expected = WORDS[name]
    exp = tmp_path / "exp" / "asr_tiny"
    shutil.copytree(tiny_experiment(), exp)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config |= {"token_type": kind, "token_list": [*config["token_list"][:3], *letters, "<sos/eos>"]}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    FeatureExtractor(8000, FbankConfig(num_mel_bins=DIMENSION)).write(exp)
    (tmp_path / "decode.yaml").write_text("beam_size: 1\n")
    texts = {utt: text for utt, text in make_texts(6, seed=4).items() if len(text) >= 6}
    data = FeatureDir.read(write_features(tmp_path / "dump", texts, seed=4, seconds=2.0))
    utt = next(iter(data.feats))
    shown = record(exp / "valid.cer_ctc.ave.pth", data, utt, said).words
    with ArkReader() as reader:
        features = reader.read(utt, data.feats[utt]).copy()
    recognizer = Recognizer(exp, tmp_path / "decode.yaml")
    transcribed, aligned = recognizer.words(features, said, 0.0, 2.0)
    assert aligned and " ".join(word.word for word in transcribed) == expected
    assert [(w.word, round(w.start, 3), round(w.end, 3)) for w in shown] == [
        (w.word, w.start, w.end) for w in transcribed
    ]
