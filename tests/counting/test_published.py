"""The mean count that a published ratio asks for gives that ratio back."""

import pytest
import yaml

from espnet_spike.bin import published_energy
from espnet_spike.counting.energy import read_cost_model
from espnet_spike.counting.published import needs
from espnet_spike.errors import UserError

CONF = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"encoder": "iml_spikeformer", "encoder_conf": CONF}))
    return path


@pytest.mark.parametrize("ratio", [1.5, 2.5])
def test_the_count_gives_the_ratio(config, ratio):
    model = read_cost_model("horowitz45_fp32")
    unfolded, folded = needs(config, ratio, model, seconds=0.6)
    for need in (unfolded, folded):
        ours = 4.6 * need.real + 0.9 * need.mean_count * need.spiking
        assert 4.6 * need.dense / ours == pytest.approx(ratio)
    frames, dim, heads = 14, 16, 2  # 60 input frames, halved twice without padding
    assert unfolded.dense == folded.dense
    # Q K^T is the difference: real-valued before, spike-driven after, with larger weights
    assert unfolded.real - folded.real == frames**2 * dim * 2
    extra = (heads - 2) * dim**2 * frames + (heads * dim - dim) * frames**2
    assert folded.real + folded.spiking - folded.dense == 2 * extra


def test_a_ratio_out_of_reach_is_said(config, capsys):
    words = ["--asr_config", str(config), "--ratio", "1000", "--seconds", "0.6"]
    published_energy.main(words)
    out = capsys.readouterr().out
    assert "none" in out and "Horowitz" in out
    with pytest.raises(UserError, match="differ in number"):
        published_energy.main([*words[:2], "--ratio", "2", "3"])


def test_other_encoders_have_no_published_ratio(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("encoder: transformer\n")
    with pytest.raises(UserError, match="iml_spikeformer"):
        needs(path, 2.0, read_cost_model("horowitz45_fp32"), 1.0)
