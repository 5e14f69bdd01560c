import dataclasses
import json

from benchmarks import bench_long_audio
from benchmarks.bench_long_audio import FORMS, Case, predict

CASE = Case("chunkwise", 600, 512, 8, 2048, 18, "conv2d6", 8.0, 1)


def predicted(**changes):
    return predict(dataclasses.replace(CASE, **changes))


def test_only_the_chunkwise_form_is_predicted_to_be_linear():
    for form in FORMS:
        growth = predicted(form=form, seconds=7200) / predicted(form=form, seconds=3600)
        linear = form in ("chunkwise", "transformer_lean")
        assert growth < 2.01 if linear else growth > 3.9, form


def test_an_hour_is_predicted_to_fit_in_pieces_and_chunks_only():
    for form in FORMS:
        assert (predicted(form=form, seconds=3600) < 8 * 2**30) == (form == "chunkwise"), form


def test_what_fits_is_measured_and_what_does_not_is_said(tmp_path):
    sizes = "--d 16 --heads 8 --linear_units 32 --blocks 1 --limit_gb 2".split()
    which = ["--lengths", "600", "--forms", "chunkwise quadratic"]
    bench_long_audio.main([*which, *sizes, "--out", str(tmp_path / "long")])
    rows = json.loads((tmp_path / "long.json").read_text())["rows"]
    chunkwise, quadratic = rows
    assert 0.1 < chunkwise["peak [GiB]"] < 2
    assert chunkwise["core [s]"] > 0
    assert quadratic["peak [GiB]"].startswith("does not fit: asked for")
    assert quadratic["predicted [GiB]"] > 2
