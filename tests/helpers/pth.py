"""Model files as torch writes them, without torch."""

import pickle
import zipfile


def write_pth(path, content=b"x" * 1000):
    """A file as torch writes it, of one tensor."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))
        archive.writestr("archive/data/0", content)
