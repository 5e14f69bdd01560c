"""Configurations that come with the package, and what asks for a checkout."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espnet_spike.bin import new_recipe
from espnet_spike.errors import UserError
from espnet_spike.utils import resources
from espnet_spike.utils.provenance import git_hash, portable_path
from espnet_spike.utils.resources import checkout, config_file, need_checkout, pretrained, shipped


def test_every_configuration_of_the_checkout_comes_with_the_package(root):
    files = [path.relative_to(root / "conf") for path in (root / "conf").rglob("*.yaml")]
    assert len(files) > 20
    for name in files:
        assert shipped(str(name)) == root / "conf" / name  # not below the link
    assert yaml.safe_load(shipped("energy/horowitz45_fp32.yaml").read_text())["precision"]


def test_a_name_that_is_not_shipped_is_refused_with_the_nearest(root):
    with pytest.raises(UserError, match=r"conf/fbnak\.yaml \(did you mean 'fbank\.yaml'\?\)") as e:
        shipped("fbnak.yaml")
    assert e.value.hint == f"those it has are in {root / 'conf'}"


def test_an_option_takes_the_file_that_is_there_before_the_shipped_one(
    tmp_path, monkeypatch, caplog, root
):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    assert config_file("conf/fbank.yaml") == root / "conf/fbank.yaml"
    assert caplog.messages == [f"conf/fbank.yaml: {root / 'conf/fbank.yaml'}"]
    for name in ("fbank.yaml", "conf/none.yaml", "conf/../run.sh", "/conf/fbank.yaml"):
        assert config_file(name) == Path(name)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/fbank.yaml").touch()
    assert config_file("conf/fbank.yaml") == Path("conf/fbank.yaml")
    assert len(caplog.messages) == 1


def test_the_checkout_is_known(root):
    assert checkout() == need_checkout("this test") == root
    assert portable_path(root / "conf/fbank.yaml") == "conf/fbank.yaml"


def test_outside_a_checkout_it_is_asked_for_and_no_repository_around_is_taken_for_it(
    tmp_path, monkeypatch
):
    package = tmp_path / "site-packages" / "espnet_spike" / "utils" / "resources.py"
    monkeypatch.setattr(resources, "__file__", str(package))
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert checkout() is None
    assert git_hash() == "not a git checkout"
    assert portable_path(package.parent / "x.yaml") == "<path>/x.yaml"
    with pytest.raises(
        UserError, match=r"new_recipe needs a checkout .*site-packages/espnet_spike"
    ):
        new_recipe.main(["mine", "--train", "train.csv"])


def test_a_copy_without_the_link_says_so(tmp_path, root):
    skip = shutil.ignore_patterns("conf", "__pycache__")
    shutil.copytree(root / "espnet_spike", tmp_path / "espnet_spike", ignore=skip)
    code = "from espnet_spike.utils.resources import shipped; shipped('fbank.yaml')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert "lacks its configurations" in result.stderr


def test_a_checkout_copied_without_its_links_has_its_configurations(root, tmp_path):
    copy = tmp_path / "a copy"
    shutil.copytree(root / "espnet_spike" / "utils", copy / "espnet_spike" / "utils")
    for name in ("espnet_spike/__init__.py", "espnet_spike/errors.py", "run.sh"):
        shutil.copy(root / name, copy / name)
    shutil.copytree(root / "conf", copy / "conf")
    (copy / "egs").mkdir()
    code = "from espnet_spike.utils.resources import shipped; print(shipped('fbank.yaml'))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        env={},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == str((copy / "conf/fbank.yaml").resolve()), result.stderr


def test_models_come_with_the_package_by_the_names_of_their_packs(root, tmp_path, monkeypatch):
    assert pretrained() == {path.stem: path for path in root.glob("egs/*/pretrained/*.zip")}
    assert "fsdd-digits" in pretrained()
    assert (root / "espnet_spike/pretrained").samefile(root / "egs/fsdd/pretrained")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/a.zip").touch()
    monkeypatch.setattr(resources, "checkout", lambda: None)
    monkeypatch.setattr(resources.resources, "files", lambda package: tmp_path)
    assert pretrained() == {"a": tmp_path / "pretrained/a.zip"}
