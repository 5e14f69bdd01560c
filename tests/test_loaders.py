"""What comes from outside is read at one place each: no other module calls the libraries for it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "espnet_spike"
# full name of what is called -> the modules that may
ONLY = {
    "torch.load": ("utils/checkpoints.py",),
    "yaml.load": ("utils/yaml.py",),
    "pickle.Unpickler": ("utils/checkpoints.py",),  # which runs nothing
    "zipfile.ZipFile": ("utils/archives.py",),
    "numpy.lib.format.read_array": ("utils/archives.py",),
    "kaldiio.save_ark": ("data/ark.py",),
    "gzip.GzipFile": ("utils/archives.py",),
    "gzip.open": (),
    "bz2.BZ2File": ("utils/archives.py",),
    "lzma.LZMAFile": ("utils/archives.py",),
}
NEVER = (
    *(
        "yaml.safe_load",
        "yaml.full_load",
        "yaml.unsafe_load",
        "yaml.load_all",
        "yaml.safe_load_all",
    ),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "dill.load"),
    *("joblib.load", "torch.jit.load", "torch.hub", "torch.serialization", "shutil.unpack_archive"),
    *("tarfile", "zipfile.PyZipFile", "kaldiio", "omniio", "eval", "exec", "os.system", "os.popen"),
    *("espnet2.main_funcs.pack_funcs", "espnet_model_zoo", "numpy.fromfile", "numpy.memmap"),
    "numpy.load",
    *("espnet2.torch_utils.safe_torch_load", "pandas.read_pickle", "h5py.File"),
)


def called(tree):
    """Yield each call of a module with the full name of what it calls."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, place = [], node.func
            while isinstance(place, ast.Attribute):
                parts.append(place.attr)
                place = place.value
            if isinstance(place, ast.Name):
                yield ".".join([names.get(place.id, place.id), *reversed(parts)]), node
        elif isinstance(node, ast.ClassDef):  # a base is called, too
            for base in node.bases:
                for name, _ in called(ast.Module([ast.Expr(ast.Call(base, [], []))], [])):
                    first, dot, rest = name.partition(".")
                    yield names.get(first, first) + dot + rest, node


def faults(name, source):
    """Yield what a module calls that it must not."""
    for function, node in called(ast.parse(source)):
        never = any(function == bad or function.startswith(f"{bad}.") for bad in NEVER)
        if function in ONLY:
            if name not in ONLY[function]:
                yield f"{name}:{node.lineno}: {function} is called in {ONLY[function]} only"
        elif never:
            yield f"{name}:{node.lineno}: {function} is never called"
        words = {word.arg: word.value for word in getattr(node, "keywords", [])}

        def is_given(key, value, words=words):
            return isinstance(words.get(key), ast.Constant) and words[key].value is value

        if function == "numpy.lib.format.read_array" and not is_given("allow_pickle", False):
            yield f"{name}:{node.lineno}: read_array without allow_pickle=False"
        if function == "torch.load" and not (
            is_given("weights_only", True) and is_given("mmap", False)
        ):
            yield f"{name}:{node.lineno}: torch.load without weights_only=True, mmap=False"
        if is_given("shell", True) and name != "data/audio.py":  # behind --allow_pipes
            yield f"{name}:{node.lineno}: a shell"


def test_everything_is_read_at_its_place():
    found = [
        fault
        for file in sorted(ROOT.rglob("*.py"))
        for fault in faults(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(x, weights_only=True, mmap=False)",
        "from torch import load as l\nl(x)",
        "import numpy as np\nnp.load(x, allow_pickle=False)",
        "import numpy\nwith numpy.load(x, allow_pickle=True): pass",
        "def f():\n    import yaml\n    return yaml.safe_load(x)",
        "import yaml as y\ny.load(x, Loader=y.SafeLoader)",
        "from pickle import loads\nloads(x)",
        "import pickle\nclass A(pickle.Unpickler): pass",
        "from zipfile import ZipFile\nZipFile(x)",
        "import tarfile\ntarfile.open(x)",
        "import shutil\nshutil.unpack_archive(x)",
        "from espnet2.main_funcs import pack_funcs\npack_funcs.unpack(x, y)",
        "from espnet2.main_funcs.pack_funcs import unpack\nunpack(x, y)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import kaldiio\nkaldiio.load_mat(x)",
        "eval(x)",
    ],
)
def test_a_call_elsewhere_is_found(code):
    assert list(faults("tasks/new.py", code))


def test_torch_and_numpy_are_asked_safely_where_they_may_be():
    assert list(faults("utils/checkpoints.py", "import torch\ntorch.load(x, weights_only=True)"))
    code = "from numpy.lib.format import read_array\nread_array(x{})"
    assert list(faults("utils/archives.py", code.format("")))
    assert not list(faults("utils/archives.py", code.format(", allow_pickle=False")))
