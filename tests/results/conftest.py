import pytest

from tests.helpers.pages import HOSTILE, decoded, write_page


@pytest.fixture(scope="session")
def spiking(tmp_path_factory):
    """A page on an experiment with spikes, whose transcripts are hostile."""
    exp, data = decoded(tmp_path_factory.mktemp("spiking"), words=HOSTILE)
    (exp / "commands.txt").write_text("./run.sh --asr_tag '<b>x'\n")
    return write_page(exp, data)
