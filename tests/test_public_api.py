"""What ``import espnet_spike`` offers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import espnet_spike


def fresh(code: str) -> str:
    """Run code in a new interpreter; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_package_and_listing_its_names_imports_nothing_else():
    code = "import sys, espnet_spike; dir(espnet_spike); print(*sys.modules)"
    loaded = set(fresh(code).split())
    assert not loaded & {"torch", "numpy", "espnet2", "yaml"}
    assert {name for name in loaded if name.startswith("espnet_spike.")} == set()


def test_every_public_name_is_there():
    code = (
        "import espnet_spike as e\n"
        "for name in e.__all__:\n"
        "    value = getattr(e, name)\n"
        "    assert getattr(value, '__name__', name) == name, name\n"
        "    assert getattr(e, name) is value\n"
        "print(len(e.__all__))"
    )
    assert int(fresh(code)) > 20


def test_dir_lists_them():
    assert set(espnet_spike.__all__) <= set(dir(espnet_spike))


def test_type_checkers_see_the_same_names_in_the_same_modules():
    tree = ast.parse(Path(espnet_spike.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in block.body for alias in node.names
    }  # as themselves: a name imported otherwise is private to a type checker
    assert all(alias.name == alias.asname for node in block.body for alias in node.names)
    assert seen == {name: f"espnet_spike.{where}" for name, where in espnet_spike._WHERE.items()}
    assert (Path(espnet_spike.__file__).parent / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'espnet_spike' has no attribute 'IMSL'"):
        _ = espnet_spike.IMSL
    with pytest.raises(ImportError, match="IMSL"):
        exec("from espnet_spike import IMSL")


def test_what_the_documents_import_is_public(root):
    documents = [*root.glob("*.md"), *root.glob("docs/*.md"), root / "espnet_spike/export/pack.py"]
    lines = [line for path in documents for line in path.read_text().splitlines()]
    found = re.findall(r"from espnet_spike import ([\w, ]+)", "\n".join(lines))
    names = {name for names in found for name in names.rstrip(", ").split(", ")}
    assert {"Recognizer", "load_model", "FeatureExtractor", "SpikeOptions"} <= names
    assert names <= set(espnet_spike.__all__)
