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


# ``Path.is_file`` says of a link to nothing, and of a folder, that no file is there: whether one is
# `espnet_spike.utils.files.present` tells. These ask otherwise, so many times, for a reason.
ASKED = {
    "advice/new_recipe.py": (1, "a name that has to be free"),
    "advice/passed_checks.py": (1, "a digest, of options that may be any path"),
    "bin/count.py": (1, "a path, or names"),
    "corpora/aishell.py": (1, "the folder of a corpus is looked for"),
    "corpora/an4.py": (1, "the folder of a corpus is looked for"),
    "corpora/download.py": (8, "markers of ours, and names that a download takes"),
    "corpora/fsdd.py": (1, "what is missing is named"),
    "corpora/mini_an4.py": (1, "a file of ESPnet's package is looked for"),
    "corpora/own.py": (1, "a file is looked for in several folders"),
    "corpora/speechocean762.py": (3, "the folder is looked for, and what is missing is named"),
    "data/feature_dir.py": (1, "an archive is looked for in several folders"),
    "errors.py": (1, "of an error of the system"),
    "experiment.py": (2, "a name to write to, and one that a copy stands for"),
    "export/pack.py": (1, "values of a configuration, of which some are paths"),
    "inference/audio_inputs.py": (4, "words of the user, files or names"),
    "inference/batches.py": (1, "the progress of a process at work"),
    "results/breakdown.py": (1, "a folder or a file, looked for; the page says if there is none"),
    "simulator/firmware.py": (1, "files among folders"),
    "simulator/toolchain.py": (1, "a program is looked for"),
    "tasks/loading.py": (4, "a folder, a pack or a name"),
    "tasks/trainer.py": (1, "just written"),
    "training/check.py": (1, "a folder above"),
    "training/judge.py": (1, "links of ESPnet's to epochs that are gone"),
    "training/progress.py": (1, "the progress of a process at work"),
    "training/twin.py": (1, "an option, for comparison"),
    "utils/archives.py": (4, "names that have to be free, and what was unpacked"),
    "utils/jobs.py": (1, "logs to show"),
    "utils/locks.py": (1, "a lock that another has removed"),
    "utils/markers.py": (5, "inputs and outputs of stages, folders and files"),
    "utils/resources.py": (3, "names of the package's own files"),
    "utils/stages.py": (2, "a marker of ours, and a folder above"),
}
ASKING = ("is_file", "exists", "isfile", "lexists")


def test_whether_a_file_is_there_is_asked_in_one_way():
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in ASKING
        ]
        if calls:
            found[file.relative_to(ROOT).as_posix()] = len(calls)
    assert found == {name: times for name, (times, _) in ASKED.items()}


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
