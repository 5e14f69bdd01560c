import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    EPOCHS,
    RESUMABLE_KEYS,
    arguments_tag,
    best_checkpoint,
    check_files,
    experiment_of,
    experiment_tag,
    keep_files,
    left_out,
    model_file,
    name_within,
    read_config,
    read_epochs,
    recorded_name,
)
from tests.helpers.pth import write_pth


def test_of_an_epoch_trained_twice_the_last_record_counts(tmp_path):
    losses = [(1, 1.0), (2, 8.0), (3, 9.0), (2, 5.0)]
    lines = [{"epoch": number, "valid": {"loss": loss}} for number, loss in losses]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / EPOCHS).write_text(text + '{"epoch": 3, "val')  # killed while writing
    epochs = read_epochs(tmp_path)
    assert [(e["epoch"], e["valid"]["loss"]) for e in epochs] == [(1, 1.0), (2, 5.0)]
    assert read_epochs(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "line",
    [
        *("null", "5", "[]", "{}", '{"epoch": "x"}', '{"epoch": 2, "seconds": "x"}'),
        *('{"epoch": 2, "valid": 5}', '{"epoch": 2, "valid": {"loss": []}}'),
    ],
)
def test_a_record_of_another_shape_is_named_with_its_line(tmp_path, line):
    (tmp_path / EPOCHS).write_text(f'{{"epoch": 1, "valid": {{"loss": NaN}}}}\n{line}\n')
    with pytest.raises(UserError, match=r"epochs\.jsonl, line 2 is damaged: "):
        read_epochs(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"token_list": ["a", None]}, {"token_list": 5}, {"token_list": [["a"]]}),
        *({"encoder": ["x"]}, {"encoder_conf": 5}, {"input_size": "x"}),
    ],
)
def test_a_configuration_of_another_shape_is_named_with_its_key(tmp_path, change):
    path = experiment(tmp_path, [], []) / "config.yaml"
    assert read_config(tmp_path)["token_list"] == ["a", "b"]
    path.write_text(yaml.safe_dump({"token_list": ["a", "b"]} | change))
    with pytest.raises(UserError, match=rf"config\.yaml is damaged: {next(iter(change))}"):
        read_config(tmp_path)


def experiment(tmp_path, criteria, names):
    config = {"best_model_criterion": criteria, "token_list": ["a", "b"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for name in names:
        write_pth(tmp_path / name)
    return tmp_path


def test_a_token_is_there_once(tmp_path):
    tokens = ["<blank>", "<unk>", "a", "b", "a", "<sos/eos>"]
    (tmp_path / "config.yaml").write_text(json.dumps({"token_list": tokens}))
    with pytest.raises(UserError, match=r"config\.yaml: token_list has 'a' 2 times"):
        read_config(tmp_path)


def test_best_checkpoint_is_that_of_the_first_criterion_reported(tmp_path):
    criteria = [["valid", "cer_ctc", "min"], ["valid", "acc", "max"]]
    exp = experiment(tmp_path, criteria, ["valid.acc.ave.pth", "valid.acc.best.pth"])
    assert best_checkpoint(exp).name == "valid.acc.ave.pth"
    write_pth(exp / "valid.cer_ctc.best.pth")
    assert best_checkpoint(exp).name == "valid.cer_ctc.best.pth"
    write_pth(exp / "valid.cer_ctc.ave.pth")
    assert best_checkpoint(str(exp)).name == "valid.cer_ctc.ave.pth"
    assert best_checkpoint(exp, ("valid", "acc")).name == "valid.acc.ave.pth"


def test_best_checkpoint_refuses(tmp_path):
    with pytest.raises(UserError, match=r"config.yaml is missing"):
        best_checkpoint(tmp_path)
    pack = tmp_path / "model.zip"
    pack.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"model.zip is a packed model[^$]*zipfile -e"):
        best_checkpoint(pack)
    exp = experiment(tmp_path, [["valid", "loss", "min"]], [])
    with pytest.raises(UserError, match=re.escape("no trained model") + ".*valid.loss"):
        best_checkpoint(exp)
    write_pth(exp / "valid.loss.ave.pth")
    content = (exp / "valid.loss.ave.pth").read_bytes()
    (exp / "valid.loss.ave.pth").write_bytes(content[:-30])
    with pytest.raises(UserError, match="truncated"):
        best_checkpoint(exp)


def test_an_unpacked_pack_names_the_experiment_in_it(tmp_path):
    (tmp_path / "exp/asr_x").mkdir(parents=True)
    (tmp_path / "exp/asr_x/config.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"config.yaml is missing\n.*give .*/exp/asr_x$"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "behind", "beside_ctc"),
    [
        ({"decoder": "speech_mamba", "model_conf": {"ctc_weight": 0.3}}, "CTC, decoder", "decoder"),
        ({"decoder": "speech_mamba", "model_conf": {"ctc_weight": 0.0}}, "decoder", "decoder"),
        ({"decoder": "speech_mamba", "model_conf": {"ctc_weight": 1.0}}, "CTC", ""),
        ({"decoder": None, "model_conf": {"ctc_weight": 1.0}}, "CTC", ""),
        ({"decoder": "speech_mamba"}, "CTC, decoder", "decoder"),
    ],
)
def test_what_takes_the_encoder_names_what_it_leaves_out(config, behind, beside_ctc):
    found = [left_out(config), left_out(config, kept=["ctc"])]
    names = [", ".join(parts).replace("decoder speech_mamba", "decoder") for parts in found]
    assert names == [behind, beside_ctc]


def test_looking_at_an_experiment_does_not_import_torch():
    code = (
        "import sys, espnet_spike.experiment, espnet_spike.bin.asr_train,"
        " espnet_spike.bin.describe, espnet_spike.bin.check_config,"
        " espnet_spike.bin.lm_train, espnet_spike.bin.collect_stats,"
        " espnet_spike.bin.list_encoders; print({'torch', 'espnet2', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_config_and_the_suffixes_name_the_experiment():
    tag = experiment_tag("conf/train_iml_spikeformer.yaml", "", ["fbank_bpe_unigram30", "sp"])
    assert tag == "iml_spikeformer_fbank_bpe_unigram30_sp"


def test_a_longer_training_stays_in_its_folder():
    assert arguments_tag("--max_epoch 90") == ""
    assert arguments_tag("--max_epoch=90 --patience 3") == ""
    assert arguments_tag("--encoder_conf T=4 --max_epoch 9") == "_encoder_confT=4"


@given(st.text(alphabet="abc /\\'\"=-_.ü\n", max_size=30))
def test_a_tag_is_one_folder_name(value):
    tag = arguments_tag(f"--key {shlex.quote(value)}")
    assert "/" not in tag and "\n" not in tag and " " not in tag


def test_resumable_keys_are_spelled_as_espnet_does():
    assert all(key.islower() and "-" not in key for key in RESUMABLE_KEYS)


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Return a function that writes files into a recipe's folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"# {name}\n")

    return write


def tag(config, arguments=""):
    folders = [Path("conf"), Path("root/conf")]
    return experiment_tag(config, arguments, ["fbank"], folders, Path("exp"))


def test_two_configurations_of_one_name_never_share_a_folder(configs, tmp_path):
    files = [
        "conf/train_x.yaml",
        "conf/x.yaml",
        "conf/ablation/train_x.yaml",
        "root/conf/train_x.yaml",
        "root/conf/x.yml",
        str(tmp_path / "elsewhere/train_x.yaml"),
        str(tmp_path / "elsewhere/x.yaml"),
    ]
    configs(*files)
    tags = [tag(file) for file in files]
    assert tags[0] == "x_fbank"  # as ever
    assert len(set(tags)) == len(files)
    for other in tags[1:]:
        assert re.fullmatch("x-[0-9a-f]{6}_fbank", other)
    assert [tag(file, "--ctc_weight 1") for file in files] == [t + "_ctc_weight1" for t in tags]
    assert tag("conf/ablation/../ablation/train_x.yaml") == tags[2]
    assert tag(str(tmp_path / "conf/train_x.yaml")) == "x_fbank"


@pytest.mark.parametrize(
    ("files", "first"),
    [
        (["root/conf/train_x.yaml", "root/conf/ablation/train_x.yaml"], "root/conf/train_x.yaml"),
        (["conf/ablation/train_x.yaml", "conf/other/train_x.yaml"], "conf/ablation/train_x.yaml"),
        (["conf/ablation/train_x.yaml", "root/conf/train_x.yaml"], "root/conf/train_x.yaml"),
    ],
)
def test_the_first_configuration_of_a_name_gives_it_alone(configs, files, first):
    configs(*files)
    assert [file for file in files if tag(file) == "x_fbank"] == [first]


def test_a_finished_experiment_keeps_its_name(configs):
    mine, other = "/home/me/train_x.yaml", "/home/other/train_x.yaml"
    done = Path("exp/.done")
    done.mkdir(parents=True)

    def finish(name, config):
        command = f"python -m espnet_spike.bin.asr_train --config {config} --output_dir exp/asr_x"
        (done / f"{name}.json").write_text(json.dumps({"command": command}))

    assert tag(mine) != "x_fbank"
    finish("train_x_fbank", mine)
    assert tag(mine) == "x_fbank"
    assert tag(other) != "x_fbank"
    assert tag(mine, "--ctc_weight 1") != "x_fbank_ctc_weight1"  # was not trained
    finish("decode_transformer_fbank_x_fbank_lm_lm", other)
    assert tag(other) == "x_fbank"
    (done / "train_x_fbank.json").write_text("{")
    assert tag(mine) != "x_fbank"


def test_a_moved_experiment_finds_its_files(tmp_path, monkeypatch):
    """The configuration names them as seen from the recipe; copies lie in the folder."""
    recipe, exp = tmp_path / "recipe", tmp_path / "recipe/exp/asr_x"
    (recipe / "data").mkdir(parents=True)
    exp.mkdir(parents=True)
    monkeypatch.chdir(recipe)
    (recipe / "data/bpe.model").write_bytes(b"pieces")
    (recipe / "exp/feats_stats.npz").write_bytes(b"statistics")
    config = {
        "bpemodel": "data/bpe.model",
        "normalize_conf": {"stats_file": "exp/feats_stats.npz", "norm_vars": True},
    }
    (exp / "config.yaml").write_text(json.dumps(config))
    assert read_config(exp) == config
    keep_files(exp, config)
    keep_files(exp, config)
    assert read_config(Path("exp/asr_x")) == config  # in its recipe as ever
    moved = tmp_path / "elsewhere"
    exp.rename(moved)
    shutil.rmtree(recipe / "data")
    (recipe / "exp/feats_stats.npz").unlink()
    found = read_config(moved)
    assert Path(found["bpemodel"]).read_bytes() == b"pieces"
    assert Path(found["normalize_conf"]["stats_file"]).read_bytes() == b"statistics"
    assert found["normalize_conf"]["norm_vars"] is True
    check_files(found, moved / "config.yaml")
    (moved / "bpe.model").unlink()
    with pytest.raises(UserError, match=r"config\.yaml: bpemodel data/bpe\.model is not there"):
        check_files(read_config(moved), moved / "config.yaml")


def test_an_experiment_moved_to_a_recipe_of_the_same_names_keeps_its_own(tmp_path, monkeypatch):
    """Another BPE model spells other words of the same token numbers, without an error."""
    exp, recipe = tmp_path / "asr_x", tmp_path / "recipe"
    (recipe / "data").mkdir(parents=True)
    exp.mkdir()
    monkeypatch.chdir(recipe)
    config = {"bpemodel": "data/bpe.model"}
    (exp / "config.yaml").write_text(json.dumps(config))
    (recipe / "data/bpe.model").write_bytes(b"pieces of another")
    (exp / "bpe.model").write_bytes(b"pieces")
    assert read_config(exp) == {"bpemodel": str(exp / "bpe.model")}
    # what the training began with is recorded: a copy that is damaged is not taken
    digest = hashlib.sha256(b"pieces").hexdigest()[:16]
    snapshot = {"config": {"bpemodel (content)": f"sha256:{digest}"}}
    (exp / "spike_config.json").write_text(json.dumps(snapshot))
    (exp / "bpe.model").write_bytes(b"pi\0ces")
    with pytest.raises(UserError, match="is another than the training began with"):
        check_files(read_config(exp), exp / "config.yaml")
    (recipe / "data/bpe.model").write_bytes(b"pieces")
    assert read_config(exp) == config
    check_files(read_config(exp), exp / "config.yaml")


def test_a_model_file_is_named_by_its_path_in_the_experiment(tmp_path):
    exp, linked = tmp_path / "exp" / "asr_a", tmp_path / "asr_link"
    (exp / "conversion").mkdir(parents=True)
    for name in ("conversion/init.pth", "ave_10best.pth"):
        (exp / name).touch()
    (exp / "ave.pth").symlink_to("ave_10best.pth")
    linked.symlink_to(exp)
    for folder in (exp, linked):
        for name in ("conversion/init.pth", "ave.pth"):
            assert name_within(folder, model_file(folder, name)) == name
        assert recorded_name(folder, folder / "conversion" / "init.pth") == "conversion/init.pth"
        assert recorded_name(folder, folder / "ave.pth") == "ave_10best.pth"
    # a pack is unpacked elsewhere; a model file may be all that was given
    assert recorded_name(tmp_path / "pack.zip", exp / "ave.pth") == "ave_10best.pth"
    assert name_within(exp / "ave.pth", exp / "ave.pth") == "ave.pth"
    (exp / "config.yaml").touch()
    for name in ("conversion/init.pth", "ave.pth"):
        assert experiment_of(exp / name) == exp
    for outside in ("../asr_b/ave.pth", str(tmp_path / "ave.pth")):
        with pytest.raises(UserError, match="is not in"):
            model_file(exp, outside)
