"""ESPnet's tasks, imported without the note that flash attention is not installed.

The note goes to standard error of every command; ESPnet's own attention is what is wanted.
"""

import contextlib
import io
import sys

_notes = io.StringIO()
with contextlib.redirect_stderr(_notes):
    from espnet2.tasks.asr import ASRTask, encoder_choices, model_choices
    from espnet2.tasks.lm import LMTask

for _line in _notes.getvalue().splitlines():
    if not _line.startswith("Failed to import Flash Attention"):
        print(_line, file=sys.stderr)

__all__ = ["ASRTask", "LMTask", "encoder_choices", "model_choices"]
