"""Our decoder with each of our encoders: trained, decoded and scored under every weight of CTC."""

import json

import pytest
import torch

from espnet_spike.bin import score
from espnet_spike.data.ark import ArkReader
from espnet_spike.experiment import read_epochs
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.decode import read_settings
from espnet_spike.utils.files import read_table, write_table
from tests.helpers import tiny_training

SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
MAMBA = SMALL | {"d_state": 3, "conv_channels": 4}
ENCODERS = {
    "iml_spikeformer": SMALL | {"linear_units": 24, "conv_channels": 4},
    "speech_mamba": MAMBA,
    "event_speech_mamba": MAMBA,
    "spiking_speech_mamba": MAMBA,
}
CTC_WEIGHTS = {"ctc_only": 1.0, "hybrid": 0.3, "attention_only": 0.0}
DECODERS = {
    "event_speech_mamba": {"fat_points": "e"},
    "spiking_speech_mamba": {"spiking": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tiny_training.write_data(tmp_path_factory.mktemp("decoders"))
    tiny_training.write_config(folder, encoder="speech_mamba", encoder_conf=MAMBA)
    tiny_training.stats(folder)
    return folder


@pytest.mark.parametrize("weight", CTC_WEIGHTS.values(), ids=CTC_WEIGHTS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_trains_decodes_and_is_scored(folder, encoder, weight):
    conf = {"num_blocks": 1, "attention_heads": 2, "d_state": 3}
    tiny_training.write_config(
        folder,
        encoder=encoder,
        encoder_conf=ENCODERS[encoder],
        decoder="speech_mamba",
        decoder_conf=conf | DECODERS.get(encoder, {}),
        model_conf={"ctc_weight": weight},
        best_model_criterion=[["valid", "loss", "min"]],
        max_epoch=1,
        num_iters_per_epoch=2,
        keep_nbest_models=1,
    )
    exp = tiny_training.train(folder, exp=f"{encoder}_{weight}")
    assert read_epochs(exp)[0]["applied"] == 2  # updates
    files = {"asr_train_config": exp / "config.yaml", "asr_model_file": exp / "valid.loss.ave.pth"}
    words = f"--batch_size 2 --beam_size 3 --ctc_weight {weight} --maxlenratio -4"
    search = BeamSearch({k: str(v) for k, v in files.items()}, read_settings(None, words))
    feats = read_table(folder / "dev" / "feats.scp")
    with ArkReader() as reader:
        heard = [reader.read(utt, entry).copy() for utt, entry in feats.items()]
    found = search(heard)
    if encoder == "speech_mamba":  # no spike may be lost to rounding
        assert [search([one])[0][1] for one in heard] == [tokens for _, tokens, _ in found]
    assert all(len(tokens) <= 4 and value < 0 for _, tokens, value in found)
    (exp / "decode/dev").mkdir(parents=True)
    write_table(exp / "decode/dev/text", {u: t for u, (t, _, _) in zip(feats, found, strict=True)})
    tokens = ["--token_list", str(folder / "tokens.txt"), "--token_type", "char"]
    score.main([*tokens, "--output_dir", str(exp / "decode"), f"dev={folder / 'dev'}"])
    result = json.loads((exp / "decode/dev/result.json").read_text())
    assert result["utterances"] == 2 and result["cer"]["units"] == 4
