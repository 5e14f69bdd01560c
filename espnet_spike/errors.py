"""The one exception a user sees, and the helper that guesses what they meant."""

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
