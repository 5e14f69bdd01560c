"""The one exception a user sees, and the helpers that explain and guess what they meant."""

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something in the input, the options or the environment must be fixed by the user.

    Args:
        message: what is wrong; names the file, the utterance or the key.
        hint: what to do about it, one sentence.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or an empty string.

    >>> did_you_mean("encodr", ["encoder", "decoder"])
    " (did you mean 'encoder'?)"
    """
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


# what a system refuses for a reason that the user can do away with
CURES = {
    errno.ENOSPC: "free disk space and run the same command again: what is finished stays so",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "that disk is read-only: give folders elsewhere (run.sh: --expdir, --dumpdir)",
    errno.EACCES: "change its permissions or those of its folder, or give a folder of your own",
    errno.EPERM: "change its permissions or those of its folder, or give a folder of your own",
    errno.ENOTDIR: "a part of this path is a file where a folder belongs: rename it",
    errno.EISDIR: "a folder is where a file belongs: rename it, or give the file",
    errno.ENAMETOOLONG: "give a shorter name (run.sh: --asr_tag, --inference_tag)",
    errno.ELOOP: "a link leads to itself: make it again, or put the file in its place",
    errno.EMFILE: "raise the limit on open files (ulimit -n 4096), or lower --nj and num_workers",
    errno.ENFILE: "the machine has too many open files: end other programs, or lower --nj",
    errno.EIO: "the disk or the network to it fails: look at the machine's log (dmesg)",
}
WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


FULL = frozenset({errno.EMFILE, errno.ENFILE})  # no file is to blame


def system_error(error: Exception, who: str = "") -> UserError | None:
    """Return what the user has to know of an error of the system; None if it is of no such kind.

    The kinds are those of `CURES`: a file that is missing, for example, is no error of the system.
    Of too many open files libraries tell in errors of their own, such as ``ImportError``.

    Args:
        error: that was raised.
        who: the command, named where no file is.
    """
    if not isinstance(error, OSError) or error.errno is None:
        number = next((n for n in FULL if os.strerror(n) in str(error)), None)
        if number is None:
            return None
        return UserError(f"{who or 'this process'}: {error}", CURES[number])
    if error.errno not in CURES:
        return None
    path = error.filename2 or error.filename
    if path is None and error.errno in FULL:
        who = who or "this process"
        return UserError(f"{who} cannot open one more file: {error.strerror}", CURES[error.errno])
    if isinstance(path, bytes | str | os.PathLike):
        path = os.fsdecode(path)
        readable = os.path.exists(path) and not os.access(path, os.R_OK)
    else:  # of a number, or not known
        path, readable = "a file", False
    action = "written" if error.errno in WRITING else "read" if readable else "opened"
    return UserError(f"{path} cannot be {action}: {error.strerror}", CURES[error.errno])


def cure_of(text: str) -> str:
    """Return what to do about an error of the system that is told in a text, empty if none is."""
    return next((cure for number, cure in CURES.items() if os.strerror(number) in text), "")
