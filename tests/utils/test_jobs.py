import os
import signal
import sys
import time

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils import jobs

pytestmark = pytest.mark.xdist_group("tiny_model")  # one process trains it once


# ---- jobs


def job(code, log, **environment):
    return jobs.Job([sys.executable, "-c", code], [log], environment)


def test_a_failing_job_ends_the_others_and_is_quoted(tmp_path):
    sleeper = job("import time; time.sleep(60)", tmp_path / "1.log")
    failing = job("print('hello'); raise SystemExit('boom: x.ark')", tmp_path / "2.log")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        jobs.run_jobs("decoding", [sleeper, failing], lambda: None)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert "job 2 of 2 failed (status 1)" in message
    assert "| boom: x.ark" in message
    assert f"log: {tmp_path / '2.log'}" in message
    assert sys.executable in message


def test_a_killed_job_is_taken_for_lack_of_memory(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(UserError, match="lack of memory"):
        jobs.run_jobs("decoding", [job(code, tmp_path / "1.log")], lambda: None)


def test_an_interrupt_leaves_no_job_behind(tmp_path):
    code = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text"
    code += "(str(os.getpid())); time.sleep(60)"

    def interrupt():
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        jobs.run_jobs("decoding", [job(code, tmp_path / "1.log")], interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
