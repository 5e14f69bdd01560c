import json

import pytest

from espnet_spike.results.html_energy import layer_energy
from tests.helpers.pages import Reader, decoded, write_page


def test_energy_is_shown_with_its_source(tmp_path):
    from espnet_spike.bin import count

    exp, data = decoded(tmp_path)
    model = "horowitz45_fp32"
    words = ["--asr_exp", str(exp), "--energy_model", model, "--out", str(exp / "decode")]
    count.main([*words, f"test={data}"])
    path = exp / "decode/test/count.json"
    counted = json.loads(path.read_text())
    # what the layers need is what the whole needs
    products = counted["energy"][model]["compute"]["joules_per_second"]
    bars = layer_energy(counted, model)
    assert sum(ours for ours, _ in bars.values()) == pytest.approx(1e6 * products)
    assert all(0 < ours and 0 < dense for ours, dense in bars.values())
    counted["energy"][model]["model"]["source"] = "<i>nobody</i>"
    counted["uncovered"] = {"aten.cumsum": {"calls": 1, "numbers": 1}}
    path.write_text(json.dumps(counted))
    page = write_page(exp, data)
    texts = " ".join(Reader(page).texts)
    for text in (model, "<i>nobody</i>", "45 nm, fp32", f"{1e6 * products:.3g}"):
        assert text in texts
    assert "Not counted, no rule: aten.cumsum." in texts
    assert "Run as trained, W_Q and W_K apart." in texts
    assert "test set test" in texts  # the firing rates are those of the count
    assert 'aria-label="energy by layer"' in page and "0.ffn.linear_in" in page
