"""Shared fixtures, and the rule on skips."""

import logging
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOG_LEVEL = logging.getLogger().level

# On CI these are the only reasons to skip. A missing Python package is none: the test group of the
# environment holds everything that tests use.
ALLOWED_SKIPS = ("no GPU", "no Chromium", "development corpus absent")


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start; ``make test &`` in a script would have it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _forbidden(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip that CI does not allow, or an empty string."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return ""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    return "" if reason.startswith(ALLOWED_SKIPS) else reason


def _fail(report: pytest.TestReport | pytest.CollectReport, reason: str) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped, and CI allows only {ALLOWED_SKIPS}: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if reason := _forbidden(report):
        _fail(report, reason)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if reason := _forbidden(report):
        _fail(report, reason)
    return report


@pytest.fixture(autouse=True)
def _log_level_as_before():
    """Undo what a command run in this process, maybe by a wider fixture, did to the root logger."""
    logging.getLogger().setLevel(LOG_LEVEL)


@pytest.fixture(scope="module")
def one_thread():
    """Let torch work alone: runs are compared bit for bit, and processes are forked to spare them
    the imports, which wants a single thread.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
