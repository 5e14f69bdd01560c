"""Every encoder with every kind of decoder, trained, decoded and scored on the mini_an4 data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENCODERS = ("iml_spikeformer", "transformer", "conformer", "e_branchformer")
# what the loss and the beam search give to CTC; the rest is the attention decoder's
CTC_WEIGHTS = {"hybrid": 0.3, "ctc_only": 1.0, "attention_only": 0.0}


@pytest.fixture(scope="module")
def recipe(root, tmp_path_factory) -> Path:
    """A recipe folder with features, tokens and statistics: stages 1 to 7."""
    folder = tmp_path_factory.mktemp("mini_an4")
    os.symlink(root / "egs/mini_an4/conf", folder / "conf")
    os.symlink(root / "egs/mini_an4/local", folder / "local")
    command = ["bash", str(root / "run.sh"), "--recipe_dir", str(folder), "--env", sys.prefix]
    result = subprocess.run(
        [*command, "--asr_config", "conf/train_transformer.yaml", "--stop_stage", "stats"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("decoder", CTC_WEIGHTS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_swaps_in_by_one_line(recipe, root, monkeypatch, encoder, decoder):
    from espnet_spike.bin import asr_train, decode, score

    monkeypatch.chdir(recipe)
    exp, weight = f"exp/asr_{encoder}_{decoder}", CTC_WEIGHTS[decoder]
    tokens = ("--token_list", "data/token_list/bpe_unigram30/tokens.txt", "--token_type", "bpe")
    tokens += ("--bpemodel", "data/token_list/bpe_unigram30/bpe.model")
    asr_train.main(
        [
            *("--config", f"conf/train_{encoder}.yaml", "--output_dir", exp),
            *("--train_dir", "dump/fbank/train", "--valid_dir", "dump/fbank/dev"),
            *("--stats_dir", "exp/asr_stats_fbank_bpe_unigram30", *tokens, "--ngpu", "0"),
            *(
                "--asr_args",
                f"--max_epoch 1 --num_iters_per_epoch 4 --model_conf ctc_weight={weight}",
            ),
        ]
    )
    out = f"{exp}/decode"
    decode.main(
        [
            *("--asr_exp", exp, "--inference_config", str(root / "conf/decode_asr.yaml")),
            *("--inference_args", f"--ctc_weight {weight} --maxlenratio -5", "--inference_nj", "1"),
            *("--out", out, "test=dump/fbank/test"),
        ]
    )
    score.main([*tokens, "--out", out, "test=dump/fbank/test"])
    result = json.loads(Path(out, "test/result.json").read_text())
    assert result["wer"]["units"] == 10 and result["utterances"] == 2
