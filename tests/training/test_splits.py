import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.training.splits import split
from espnet_spike.utils.files import read_table, write_table


@given(st.sets(st.integers(0, 200), min_size=3), st.integers(2, 3), st.data())
@settings(max_examples=25, deadline=None)
def test_every_utterance_is_in_one_part_and_has_its_line_in_each_table(
    tmp_path_factory, numbers, parts, data
):
    folder = tmp_path_factory.mktemp("splits")
    kept = {f"u{n:03d}": f"{n},80" for n in numbers}
    more = data.draw(st.sets(st.integers(201, 210)))
    text = {utt: f"words of {utt}" for utt in [*kept, *(f"u{n}" for n in more)]}
    write_table(folder / "shape", kept)
    write_table(folder / "text", text)
    split({"speech_shape": folder / "shape", "text": folder / "text"}, parts, folder / "out")
    found = {name: {} for name in ("speech_shape", "text")}
    for number in range(parts):
        tables = [read_table(folder / "out" / name / f"split.{number}") for name in found]
        assert list(tables[0]) == list(tables[1])
        assert abs(len(tables[0]) - len(kept) / parts) < 1
        for name, table in zip(found, tables, strict=True):
            found[name] |= table
    assert found == {"speech_shape": kept, "text": {utt: text[utt] for utt in kept}}
    for name in found:
        assert (folder / "out" / name / "num_splits").read_text() == str(parts)
        assert len(list((folder / "out" / name).iterdir())) == parts + 1


def test_what_cannot_be_split_is_named(tmp_path):
    (tmp_path / "shape").write_text("a 1,80\nb 1,80\nc 1,80\n")
    (tmp_path / "text").write_text("a x\nc x\n")
    tables = {name: tmp_path / "shape" for name in ("first", "second")}
    with pytest.raises(UserError, match="text: no b, which is in"):
        split({**tables, "t": tmp_path / "text"}, 2, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="less than num_splits: 3 < 4") as caught:
        split({"s": tmp_path / "shape"}, 4, tmp_path / "out")
    assert "--num_splits_asr" in caught.value.hint
