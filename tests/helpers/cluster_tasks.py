"""What tests run on a cluster; imports little, for each worker does so too."""

import os
import signal
from pathlib import Path

import numpy as np

from espnet_spike.errors import UserError


class Noise:
    """Makes features of an utterance by its name; the first to make ``deadly`` is killed."""

    def __init__(self, deadly="", folder=""):
        self.deadly, self.folder = deadly, folder

    def part(self, utterances):
        return self

    def __call__(self, utt):
        if utt == self.deadly:
            die_once(self.folder)
        rng = np.random.default_rng(int(utt[1:]))
        return rng.normal(size=(5, 4)).astype(np.float32), 1.0


def die_once(folder):
    """Kill this process with no chance to tidy up, the first time in ``folder``."""
    try:
        (Path(folder) / "died").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def end_job_once(folder):
    """Kill the job of this worker, the first time in ``folder``; else return the folder here."""
    try:
        (Path(folder) / "died").touch(exist_ok=False)
    except FileExistsError:
        return os.getcwd()
    os.killpg(0, signal.SIGKILL)


def fail(number):
    if number == 1:
        raise UserError(f"bad {number}", "fix it")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
