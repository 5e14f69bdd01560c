import pytest

from tests.helpers import pages
from tests.helpers.scored import write


@pytest.fixture(scope="session")
def spiking(tmp_path_factory):
    """A page on an experiment with spikes, whose transcripts are hostile."""
    exp, data = pages.decoded(tmp_path_factory.mktemp("spiking"), words=pages.HOSTILE)
    (exp / "commands.txt").write_text("./run.sh --asr_tag '<b>x'\n")
    return pages.write_page(exp, data)


@pytest.fixture
def decoded(tmp_path):
    """A data folder, a decode folder and a function that writes hypotheses into it."""
    data = tmp_path / "dump" / "test"
    data.mkdir(parents=True)
    refs = {f"u{i:02d}": f"one two {'three' if i % 2 else 'four'}" for i in range(24)}
    write(data / "text", refs)
    write(data / "utt2spk", {utt: f"s{i % 3}" for i, utt in enumerate(refs)})
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n<space>\n" + "\n".join("onetwhrefu"))

    def put(tag, hyps):
        folder = tmp_path / "exp" / "asr_x" / tag / "test"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "text", hyps)
        return folder

    return data, refs, put
