import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from espnet_spike import experiment
from espnet_spike.bin import asr_inference, decode, ngram_train
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.data.ngram import make_ngram
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference import decode as decode_module
from espnet_spike.utils.files import read_table
from tests.helpers.tiny_model import make_texts, tiny_experiment, write_features

pytestmark = pytest.mark.xdist_group("tiny_model")  # one process trains it once


def test_settings_from_config_and_arguments(tmp_path):
    path = tmp_path / "decode.yaml"
    path.write_text("beam_size: 5\nbatch_size: 4\ninference_asr_model: 3epoch.pth\n")
    settings = decode_module.read_settings(path, "--beam_size 7 --batch_size 2 --ctc_weight=0.3")
    assert settings.config == {"beam_size": 5, "batch_size": 2}
    assert settings.words == ["--beam_size", "7", "--ctc_weight=0.3"]
    assert (settings.batch_size, settings.asr_model) == (2, "3epoch.pth")
    assert decode_module.read_settings(path, "--inference_asr_model x.pth").asr_model == "x.pth"
    assert decode_module.read_settings(None).batch_size == 1


def test_how_the_encoder_runs_is_a_setting(tmp_path):
    path = tmp_path / "decode.yaml"
    path.write_text("beam_size: 5\nspike_mode: binary\nT: 4\n")
    settings = decode_module.read_settings(path, "--T 2 --T_rule rescale")
    assert settings.execution == SpikeOptions("binary", 2, "rescale")
    assert settings.config == {"beam_size": 5, "batch_size": 1}
    assert settings.words == []


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ("T_rule: keep", "", "T is not given"),
        ("spike_mode: bits", "", "spike_mode: 'bits' is out of range(.|\n)*integer, binary"),
        ("asr_model_file: x", "", "asr_model_file is set by the decode command"),
        ("", "--output_dir x", "output_dir is set by the decode command"),
        ("", "--key_file=x", "key_file is set by the decode command"),
        ("batch_size: 0", "", "batch_size: 0 is out of range"),
        ("", "--batch_size 0", "--inference_args: argument --batch_size: 0 is out of range"),
        ("maxlenratio: 3.0", "", "maxlenratio: 3.0 is out of range"),
        ("minlenratio: .inf", "", "minlenratio: inf is out of range"),
        ("minlenratio: 0.8\nmaxlenratio: 0.5", "", "minlenratio 0.8 is beyond maxlenratio 0.5"),
        ("ctc_weight: .nan", "", "ctc_weight: nan is out of range"),
        ("beam_size: 1000000", "", "beam_size: 1000000 is out of range"),
        ("", "--batch_size two", "invalid int value"),
        ("", "--beam_size '5", "cannot split"),
    ],
)
def test_settings_that_are_refused(tmp_path, config, arguments, said):
    path = tmp_path / "decode.yaml"
    path.write_text(config)
    with pytest.raises(UserError, match=said):
        decode_module.read_settings(path, arguments)


def test_a_beam_is_fitted_to_the_vocabulary_and_search_numbers_are_checked(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"token_list": list("abcdefghi")}))
    settings = decode_module.read_settings(None, "--nbest 2")  # ESPnet's beam is 20
    assert decode_module.fit_beam(settings, tmp_path).words == ["--nbest", "2", "--beam_size", "8"]
    assert "beam_size 20 is more than 9 tokens allow; 8 is used" in caplog.text
    settings = decode_module.read_settings(None, "--beam_size 8")
    assert decode_module.fit_beam(settings, tmp_path) is settings
    with pytest.raises(UserError, match="nbest: 0 is out of range"):
        decode_module.read_settings(None, "--nbest 0")


def test_a_missing_model_file_lists_those_that_are_there(tmp_path):
    (tmp_path / "3epoch.pth").touch()
    with pytest.raises(UserError, match=r"no model file .*4epoch\.pth\n.*there are: 3epoch\.pth"):
        experiment.model_file(tmp_path, "4epoch.pth")


# ---- with a model


@pytest.fixture(scope="module")
def recipe():
    """A recipe folder with a trained model and two sets of sixteen and seven utterances."""
    root = tiny_experiment().parents[1]
    if not (root / "dump").exists():
        write_features(root / "dump" / "test", make_texts(16, seed=2), seed=2)
        write_features(root / "dump" / "dev", make_texts(7, seed=3), seed=3)
    return root


def run_decode(recipe, out, *more, sets=("test", "dev")):
    """Decode with the command; return the decode folder."""
    out = recipe / "exp" / "asr_tiny" / out
    arguments = ["--asr_exp", str(recipe / "exp" / "asr_tiny"), "--out", str(out), *more]
    decode.main([*arguments, *(f"{name}={recipe / 'dump' / name}" for name in sets)])
    return out


SEARCH = "--beam_size 3 --ctc_window_margin 0"


@pytest.fixture(scope="module")
def decoded(recipe):
    """Both sets, decoded by two jobs."""
    return run_decode(
        recipe, "two_jobs", "--inference_nj", "2", "--inference_args", f"{SEARCH} --batch_size 4"
    )


def run_all(name, todo, poll):
    """Run jobs in this process, one after the other."""
    from espnet_spike.inference.worker import infer

    for one in todo:
        for word in one.command[3:]:
            words = Path(word.removeprefix("@")).read_text().splitlines()
            at = words.index("--log_file")
            infer(words[:at] + words[at + 2 :])
    poll()


def in_process(
    recipe, folder, monkeypatch, arguments, sets=("test",), lm_exp=None, exp=None, ngram=None
):
    """Decode in this process, which has imported ESPnet already; return texts by set."""
    monkeypatch.setattr(decode_module, "run_jobs", run_all)
    plan = decode_module.make_plan(
        exp or recipe / "exp" / "asr_tiny",
        lm_exp,
        decode_module.read_settings(None, f"{SEARCH} {arguments}"),
        folder,
        {name: recipe / "dump" / name for name in sets},
        inference_nj=1,
        ngram_file=ngram,
    )
    decode_module.decode(plan)
    return {name: read_table(folder / name / "text") for name in sets}


def test_decoding_recognises_what_was_learnt(recipe, decoded):
    for name in ("test", "dev"):
        refs = read_table(recipe / "dump" / name / "text")
        hyps = read_table(decoded / name / "text")
        assert hyps.keys() == refs.keys()
        assert list(hyps) == sorted(hyps)
        same = sum(refs[key] == hyps[key] for key in refs)
        assert same >= 0.6 * len(refs)


def test_decoding_leaves_what_espnet_leaves(recipe, decoded):
    texts, tokens, ids, scores = (
        read_table(decoded / "test" / name) for name in ("text", "token", "token_int", "score")
    )
    assert texts.keys() == tokens.keys() == ids.keys() == scores.keys()
    for key, text in texts.items():
        units = tokens[key].split()
        assert "".join(units).replace("<space>", " ").strip() == text
        assert len(ids[key].split()) == len(units)
    assert sorted(p.name for p in (decoded / "test" / "logdir").glob("*.log")) == [
        "asr_inference.1.log",
        "asr_inference.2.log",
    ]
    assert not list(decoded.glob("*/logdir/output.*"))


def test_decoding_is_recorded(recipe, decoded):
    record = json.loads((decoded / "test" / "decode.json").read_text())
    assert record["checkpoint"] == "valid.cer_ctc.ave.pth"
    assert len(record["checkpoint_sha256"]) == 64
    assert (record["jobs"], record["threads"], record["device"]) == (2, 1, "cpu")
    assert record["audio_seconds"] == 16 * 60
    assert record["rtf"] == pytest.approx(record["decode_seconds"] / 960, abs=1e-4)
    assert record["decode_seconds"] > 0
    import torch

    state = torch.load(recipe / "exp/asr_tiny/valid.cer_ctc.ave.pth")
    assert record["parameters"] == sum(p.numel() for p in state.values())
    assert record["options"]["beam_size"] == 3
    effective = yaml.safe_load((decoded / "inference.yaml").read_text())
    assert (effective["beam_size"], effective["batch_size"]) == (3, 4)


def test_one_job_gives_the_text_of_two(recipe, decoded, tmp_path, monkeypatch):
    texts = in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 4", ("test", "dev"))
    for name in ("test", "dev"):
        assert texts[name] == read_table(decoded / name / "text")


@pytest.mark.parametrize("ctc_weight", [0.0, 0.5, 1.0])
def test_batches_give_the_text_of_single_utterances(recipe, tmp_path, monkeypatch, ctc_weight):
    arguments = f"--ctc_weight {ctc_weight} --batch_size "
    one = in_process(recipe, tmp_path / "one", monkeypatch, arguments + "1")["test"]
    eight = in_process(recipe, tmp_path / "eight", monkeypatch, arguments + "8")["test"]
    same = sum(one[key] == eight[key] for key in one)
    assert same >= len(one) - 1  # padding may move the last bit, and with it a tie


def test_language_model_in_batches(recipe, tmp_path, monkeypatch):
    lm_exp = make_language_model(recipe)
    texts = [
        in_process(
            recipe,
            tmp_path / f"{size}",
            monkeypatch,
            f"--lm_weight 0.5 --batch_size {size}",
            lm_exp=lm_exp,
        )["test"]
        for size in (1, 8)
    ]
    assert sum(texts[0][key] == texts[1][key] for key in texts[0]) >= 15
    record = json.loads((tmp_path / "8" / "test" / "decode.json").read_text())
    assert record["lm_checkpoint"] == "valid.loss.ave.pth"
    with pytest.raises(UserError, match="and there is no language model"):
        in_process(recipe, tmp_path / "idle", monkeypatch, "--lm_weight 0.5")
    without = in_process(recipe, tmp_path / "no", monkeypatch, "--batch_size 8")["test"]
    scores = read_table(tmp_path / "8" / "test" / "score")
    assert scores != read_table(tmp_path / "no" / "test" / "score")
    assert without.keys() == scores.keys()


def make_ngram_of(recipe, folder):
    words = ["--train_text", str(recipe / "dump/dev/text"), "--token_type", "char"]
    words += ["--token_list", str(recipe / "tokens.txt"), "--ngram_order", "4"]
    ngram_train.main([*words, "--out", str(folder / "ngram.arpa")])
    return folder / "ngram.arpa"


@pytest.mark.parametrize("ctc_weight", [0.0, 0.5, 1.0])
def test_ngram_with_every_kind_of_search(recipe, tmp_path, monkeypatch, ctc_weight):
    pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    ngram = make_ngram_of(recipe, tmp_path)
    found = {}
    for weight, size in ((0.0, 8), (0.5, 8), (0.5, 1), (50.0, 8)):
        arguments = f"--ctc_weight {ctc_weight} --ngram_weight {weight} --batch_size {size}"
        folder = tmp_path / f"{weight}_{size}"
        texts = in_process(recipe, folder, monkeypatch, arguments, ngram=ngram)["test"]
        found[weight, size] = texts, read_table(folder / "test" / "score")
        record = json.loads((folder / "test" / "decode.json").read_text())
        assert (
            record["ngram"].endswith("ngram.arpa") and record["options"]["ngram_weight"] == weight
        )
    same = sum(found[0.5, 8][0][key] == found[0.5, 1][0][key] for key in found[0.5, 1][0])
    assert same >= len(found[0.5, 1][0]) - 1
    assert found[0.5, 8][1] != found[0.0, 8][1]
    # alone, an n-gram says the same whatever it hears
    assert len(set(found[50.0, 8][0].values())) < len(set(found[0.0, 8][0].values()))


def test_an_ngram_without_file_or_kenlm_says_what_to_do(recipe, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"absent\.arpa: no such n-gram"):
        in_process(recipe, tmp_path / "d", monkeypatch, "", ngram=tmp_path / "absent.arpa")
    ngram = make_ngram_of(recipe, tmp_path)
    monkeypatch.setattr(decode_module.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="KenLM, which is not installed") as info:
        in_process(recipe, tmp_path / "d", monkeypatch, "", ngram=ngram)
    assert "kenlm" in info.value.hint or "--group test" in info.value.hint
    with pytest.raises(UserError, match="ngram_file is set by the decode command") as info:
        decode_module.read_settings(None, "--ngram_file x")
    assert "--use_ngram true" in info.value.hint


def test_an_ngram_that_does_not_fit_is_refused(tmp_path):
    pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    names, path = ["<blank>", "<unk>", "a", "<sos/eos>"], tmp_path / "2.arpa"
    make_ngram([[2, 2]], names, 2, path)
    config = tmp_path / "config.yaml"
    settings = decode_module.read_settings(None, "--ngram_scorer part")
    config.write_text(yaml.safe_dump({"token_list": names}))
    decode_module.check_ngram(path, tmp_path, settings)
    with pytest.raises(UserError, match="batch_size 2: it takes no batches"):
        decode_module.check_ngram(path, tmp_path, replace(settings, batch_size=2))
    config.write_text(yaml.safe_dump({"token_list": [*names[:3], "b", *names[3:]]}))
    with pytest.raises(UserError, match=r"2\.arpa lacks 1 token of .*: b"):
        decode_module.check_ngram(path, tmp_path, settings)
    path.write_text(path.read_text()[:90])
    with pytest.raises(UserError, match=r"2\.arpa: KenLM cannot read it"):
        decode_module.check_ngram(path, tmp_path, settings)


@pytest.mark.parametrize("arguments", ["--spike_mode binary", "--T 3"])
def test_an_encoder_without_spikes_says_so(recipe, tmp_path, monkeypatch, arguments):
    with pytest.raises(UserError, match="TransformerEncoder"):
        in_process(recipe, tmp_path / "d", monkeypatch, arguments)


def make_language_model(recipe):
    """Write an untrained LM; it still has to be asked for every token."""
    import torch
    from espnet2.tasks.lm import LMTask

    from espnet_spike.tasks.arguments import parse_espnet

    exp = recipe / "exp" / "lm_tiny"
    if exp.exists():
        return exp
    exp.mkdir()
    config = {"lm": "transformer", "lm_conf": {"embed_unit": 8, "att_unit": 16, "unit": 16}}
    config["lm_conf"] |= {"head": 2, "layer": 1}
    words = ["--output_dir", str(exp), "--token_list", str(recipe / "tokens.txt")]
    args = parse_espnet(LMTask, config, [*words, "--token_type", "char"])
    torch.manual_seed(0)
    torch.save(LMTask.build_model(args).state_dict(), exp / "valid.loss.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return exp


def test_several_best_hypotheses(recipe, tmp_path, monkeypatch):
    in_process(recipe, tmp_path / "d", monkeypatch, "--nbest 2 --batch_size 8")
    first = read_table(tmp_path / "d" / "test" / "token")
    second = read_table(tmp_path / "d" / "test" / "2best_recog" / "token")
    assert first.keys() == second.keys()
    assert all(first[key] != second[key] for key in first)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_too_short_utterances_get_blank_text_and_are_listed(
    recipe, tmp_path, monkeypatch, batch_size
):
    texts = make_texts(5, seed=4)
    folder = write_features(tmp_path / "dump" / "short", texts, seed=4)
    shorten(folder, min(texts))
    exp = recipe / "exp" / "asr_tiny"
    arguments = f"--batch_size {batch_size}"
    found = in_process(tmp_path, tmp_path / "d", monkeypatch, arguments, ("short",), exp=exp)
    assert [key for key, text in found["short"].items() if not text] == [min(texts)]
    record = json.loads((tmp_path / "d" / "short" / "decode.json").read_text())
    assert (record["blank"], record["utterances"]) == ([min(texts)], 5)


def shorten(folder, utt):
    """Leave four frames of an utterance, fewer than the encoder can take."""
    from espnet_spike.data.ark import ArkReader, ArkWriter
    from espnet_spike.data.feature_dir import FeatureDir

    data = FeatureDir.read(folder)
    with ArkReader() as reader:
        matrix = reader.read(utt, data.feats[utt])[:4]
    with ArkWriter(folder / "short.ark") as ark:
        data.feats[utt] = f"{folder / 'short.ark'}:{ark.write(utt, matrix)}"
    data.shapes[utt] = matrix.shape
    data.write(folder)


def test_checkpoints_have_folders_of_their_own(tmp_path):
    out = tmp_path / "decode_asr"
    assert decode_module.decodings(None, out) == [(None, out)]
    assert decode_module.decodings("a.b.pth", out) == [("a.b.pth", out)]
    assert decode_module.decodings(" valid.acc.ave_5best.pth 10epoch.pth", out) == [
        ("valid.acc.ave_5best.pth", tmp_path / "decode_asr_asr_model_valid.acc.ave_5best"),
        ("10epoch.pth", tmp_path / "decode_asr_asr_model_10epoch"),
    ]
    assert decode_module.decodings("a.pth conversion/init.pth", out)[1] == (
        "conversion/init.pth",
        tmp_path / "decode_asr_asr_model_conversion_init",
    )
    for names, said in (
        ("a.pth b.pth a.pth", "given twice"),
        ("x/b.pth x_b.pth", "given twice"),  # one folder
        ("a.pth ../x/b.pth", "no path within the experiment"),
        ("a.pth /x/b.pth", "no path within the experiment"),
    ):
        with pytest.raises(UserError, match=said):
            decode_module.decodings(names, out)


def copied(recipe, exp):
    """Copy what decoding needs of the trained experiment, to change it."""
    source, needed = recipe / "exp" / "asr_tiny", (".pth", ".yaml")
    shutil.copytree(
        source, exp, ignore=lambda _, names: [n for n in names if not n.endswith(needed)]
    )
    return exp


def test_several_checkpoints_are_decoded_in_one_call(recipe, tmp_path, monkeypatch):
    import torch

    exp = copied(recipe, tmp_path / "exp" / "asr_two")
    state = torch.load(exp / "valid.cer_ctc.ave.pth")
    state["ctc.ctc_lo.bias"][0] += 1e4  # which hears nothing
    torch.save(state, exp / "1epoch.pth")

    monkeypatch.setattr(decode_module, "run_jobs", run_all)
    arguments = ["--asr_exp", str(exp), "--out", str(exp / "decode"), "--inference_args"]
    arguments += [f"{SEARCH} --ctc_weight 1.0", f"dev={recipe / 'dump' / 'dev'}"]
    decode.main([*arguments, "--inference_asr_model", "valid.cer_ctc.ave.pth 1epoch.pth"])
    assert not (exp / "decode").exists()
    texts = {}
    for name in ("valid.cer_ctc.ave", "1epoch"):
        set_dir = exp / f"decode_asr_model_{name}" / "dev"
        assert json.loads((set_dir / "decode.json").read_text())["checkpoint"] == f"{name}.pth"
        texts[name] = read_table(set_dir / "text")
    assert any(texts["valid.cer_ctc.ave"].values()) and not any(texts["1epoch"].values())
    with pytest.raises(UserError, match=r"no model file .*9epoch\.pth"):
        decode.main([*arguments, "--inference_asr_model", "1epoch.pth 9epoch.pth"])


def test_a_model_file_in_a_folder_of_the_experiment_is_recorded_with_it(
    recipe, tmp_path, monkeypatch
):
    exp = copied(recipe, tmp_path / "exp" / "asr_converted")
    (exp / "conversion").mkdir()
    (exp / "valid.cer_ctc.ave.pth").rename(exp / "conversion" / "init.pth")
    monkeypatch.setattr(decode_module, "run_jobs", run_all)
    words = f"{SEARCH} --ctc_weight 1.0 --inference_asr_model conversion/init.pth"
    arguments = ["--asr_exp", str(exp), "--out", str(exp / "decode"), "--inference_args", words]
    decode.main([*arguments, f"dev={recipe / 'dump' / 'dev'}"])
    record = json.loads((exp / "decode" / "dev" / "decode.json").read_text())
    assert record["checkpoint"] == "conversion/init.pth"
    assert decode_module.model_file(exp, record["checkpoint"]).exists()


def test_a_score_that_is_no_number_is_an_error(recipe, tmp_path, monkeypatch):
    import torch

    exp = tmp_path / "exp" / "asr_nan"
    exp.mkdir(parents=True)
    source = recipe / "exp" / "asr_tiny"
    (exp / "config.yaml").write_bytes((source / "config.yaml").read_bytes())
    state = torch.load(source / "valid.cer_ctc.ave.pth")
    for value, message in (
        (float("nan"), r"ave\.pth: not a number, or infinite: decoder\.output_layer\.weight"),
        (torch.finfo(torch.float).max, "score is not a number"),  # what it computes is infinite
    ):
        state["decoder.output_layer.weight"][:] = value
        torch.save(state, exp / "valid.cer_ctc.ave.pth")
        with pytest.raises(UserError, match=message):
            in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", exp=exp)


def test_a_failing_job_names_command_and_log(recipe, capfd):
    with pytest.raises(UserError) as caught:
        run_decode(recipe, "bad", "--inference_args", "--beam_sise 3", sets=("dev",))
    message = str(caught.value)
    assert "did you mean 'beam_size'" in message
    assert "dev/logdir/asr_inference.1.log" in message
    assert "espnet_spike.bin.asr_inference" in message


def test_finished_runs_of_an_interrupted_decoding_are_kept(recipe, tmp_path, monkeypatch):
    """The second set fails; the next call decodes only that one."""
    from espnet_spike.inference import worker

    real, called = worker.infer, []

    def counted(words):
        called.append(words[words.index("--output_dir") + 1].split("/")[-3])
        if called == ["test", "dev"]:
            raise UserError("interrupted")
        real(words)

    monkeypatch.setattr(worker, "infer", counted)
    with pytest.raises(UserError, match="interrupted"):
        in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("test", "dev"))
    texts = in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("test", "dev"))
    assert called == ["test", "dev", "dev"]
    assert {name: len(found) for name, found in texts.items()} == {"test": 16, "dev": 7}
    # once everything is there, the same call decodes anew: the code may have changed
    in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("test", "dev"))
    assert called[3:] == ["test", "dev"]


def test_other_options_or_features_do_not_reuse_finished_runs(recipe, tmp_path):
    data = write_features(tmp_path / "dump" / "test", make_texts(3, seed=5), seed=5)

    def key(arguments=""):
        plan = decode_module.make_plan(
            recipe / "exp" / "asr_tiny",
            None,
            decode_module.read_settings(None, arguments),
            tmp_path / "d",
            {"test": data},
            inference_nj=1,
        )
        return decode_module.fingerprint(plan, plan.runs[0][0])

    assert key() == key()
    assert key("--beam_size 2") != key()
    before = key()
    (data / "feats.ark").touch()
    assert key() != before


def test_scores_of_an_earlier_decoding_are_removed(recipe, tmp_path, monkeypatch):
    stale = tmp_path / "d" / "dev"
    (stale / "score_wer").mkdir(parents=True)
    (stale / "logdir" / "output.7").mkdir(parents=True)
    (stale / "logdir" / "asr_inference.7.log").touch()
    (stale / "result.json").write_text("{}")
    in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("dev",))
    assert not (stale / "score_wer").exists()
    assert {path.name for path in (stale / "logdir").iterdir()} == {
        "asr_inference.1.options",
        "keys.1.scp",
    }
    assert not (stale / "result.json").exists()


def test_a_lost_hypothesis_is_named(recipe, tmp_path, monkeypatch):
    from espnet_spike.inference import worker

    real = worker.infer

    def lossy(words):
        real(words)
        path = Path(words[words.index("--output_dir") + 1]) / "1best_recog" / "text"
        path.write_text("".join(path.read_text().splitlines(True)[1:]))

    monkeypatch.setattr(worker, "infer", lossy)
    with pytest.raises(UserError, match="no hypothesis for 1 utterance: utt3_"):
        in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("dev",))
    # nothing of it is kept: the next call decodes anew
    monkeypatch.setattr(worker, "infer", real)
    texts = in_process(recipe, tmp_path / "d", monkeypatch, "--batch_size 8", ("dev",))
    assert len(texts["dev"]) == 7


def test_paths_with_commas_are_refused(recipe, tmp_path):
    settings = replace(decode_module.read_settings(None), asr_model="valid.cer_ctc.ave.pth")
    with pytest.raises(UserError, match="holds a comma"):
        decode_module.make_plan(recipe / "exp/asr_tiny", None, settings, tmp_path / "a,b", {}, 1)


def test_features_of_another_definition_are_refused(recipe, tmp_path):
    exp = shutil.copytree(recipe / "exp/asr_tiny", tmp_path / "asr_tiny", symlinks=True)
    test = shutil.copytree(recipe / "dump/test", tmp_path / "test")
    FeatureExtractor(16000, FbankConfig()).write(exp)
    FeatureExtractor(8000, FbankConfig()).write(test)
    settings = replace(decode_module.read_settings(None), asr_model="valid.cer_ctc.ave.pth")
    with pytest.raises(UserError, match=r"test are of another .* fs is 8000, not 16000"):
        decode_module.make_plan(exp, None, settings, tmp_path / "out", {"test": test}, 1)


def test_wrapper_wants_files_or_options():
    with pytest.raises(UserError, match="nothing to decode"):
        asr_inference.main([])
    with pytest.raises(UserError, match="together"):
        asr_inference.main(["@a", "--beam_size", "3"])


COMMANDS = ["decode", "asr_inference", "score", "report", "compare_decodes", "pack"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick(name):
    command = [sys.executable, "-m", f"espnet_spike.bin.{name}", "--help"]
    start = time.process_time()
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert usage.startswith("usage: espnet_spike.bin.")
    assert time.process_time() - start < 1


def test_an_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"feats\.ark: no such file"):
        decode_module._stamp(tmp_path / "feats.ark")


def test_why_nothing_was_recognised_depends_on_the_verdict(tmp_path):
    record = {"utterances": 2, "blank": ["u1"], "audio_seconds": 1.0, "rtf": 0.1}
    assert "u1: silence, or too short" in decode_module.time_lines({"test": record}, tmp_path)[-1]
    (tmp_path / "verdict.json").write_text('{"learnt": false}')
    said = decode_module.time_lines({"test": record}, tmp_path)[-1]
    assert "u1: the model has learnt nothing" in said and "silence" not in said
    assert len(decode_module.time_lines({"test": record | {"blank": []}}, tmp_path)) == 2
