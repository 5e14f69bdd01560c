import gzip
import json

import pytest
import soundfile

from espnet_spike.corpora.manifests import Item, names_of, read_source
from espnet_spike.corpora.own import import_set
from espnet_spike.data.audio import parse_source, read
from espnet_spike.errors import UserError
from tests.helpers.tables import NAMES, TEXTS, write_csv


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "jsonl.gz"])
def test_tables_of_any_kind_give_the_same(audio, kind):
    path = audio.parent / f"all.{kind}"
    if "json" in kind:
        rows = [
            {"audio_filepath": n, "text": t, "speaker": f"s{i % 2}", "duration": 1.0}
            for i, (n, t) in enumerate(zip(NAMES, TEXTS, strict=True))
        ]
        opener = gzip.open if kind.endswith("gz") else open
        with opener(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        write_csv(path, "," if kind == "csv" else "\t")
    data = import_set(path, audio, channel="1")
    assert data.text == dict(zip(["a_1", "b", "c", "d"], TEXTS, strict=True))
    assert data.utt2spk == {"a_1": "s0", "b": "s1", "c": "s0", "d": "s1"}
    assert data.wav["a_1"] == str(audio / "a 1.flac")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (("clip", "text", "x"), "no column for audio; there are clip, text, x"),
        (("path", "said", "x"), "no column for text"),
    ],
)
def test_an_unknown_column_is_asked_for_and_can_be_named(audio, header, said):
    path = write_csv(audio / "all.csv", header=header)
    with pytest.raises(UserError, match=said) as caught:
        import_set(path, channel="mean")
    assert "--columns" in caught.value.hint
    columns = {"audio": header[0], "text": header[1]}
    assert len(import_set(path, columns=columns, channel="mean").text) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,text\nnone.wav,A\n", r"none\.wav is not there"),
        ("path,text\nb.ogg,A,B\n", "line 2: 2 columns are expected"),
        ("path,text\n", "holds no utterance"),
        ("path,text\nb.ogg,!?\n", "no utterance has words"),
        ("path,text,start,end\nb.ogg,A,one,2\n", "line 2: start is .one., no number of seconds"),
        ("id,path,text\nu,b.ogg,A\nu,c.wav,B\n", "two utterances are called u"),
    ],
)
def test_a_bad_table_is_refused_with_the_place(audio, content, said):
    (audio / "bad.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        import_set(audio / "bad.csv", normalization="upper")


ROWS = [(f"{n:02d}.wav", f"SAID {n}", f"s{n}") for n in range(2, 26)]


def write_table(path, delimiter, spoilt=None, name="text"):
    rows = [("path", name, "speaker"), *ROWS]
    for number, text in (spoilt or {}).items():
        rows[number - 1] = (rows[number - 1][0], text, rows[number - 1][2])
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows))
    return path


def test_a_lone_quote_in_a_tsv_is_a_character_and_glues_no_rows(tmp_path, caplog):
    spoilt = {5: '"HE SAID', 10: 'AND LEFT"', 12: 'A "WORD" HERE'}
    items = read_source(write_table(tmp_path / "t.tsv", "\t", spoilt))
    assert [item.audio for item in items] == [row[0] for row in ROWS]
    assert {n: items[n - 2].text for n in spoilt} == spoilt and not caplog.text
    read_source(write_table(tmp_path / "t.tsv", "\t", {5: '"""HE"" SAID"'}))
    assert "1 fields of text have double quotes around" in caplog.text and ".csv" in caplog.text


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({5: '"HE SAID'}, "line 5: unexpected end of data"),
        ({5: '"HE SAID', 10: 'AND LEFT"'}, "line 5: .* goes on to line 10"),
        ({5: '"HE SAID', 10: '"AND LEFT"'}, "line 5: .*expected after"),
        ({7: '"HE" SAID'}, "line 7: .*expected after"),
        ({9: "X" * 140_000}, "line 9: field larger than field limit"),
    ],
)
def test_an_unbalanced_quote_in_a_csv_is_refused_with_its_line(tmp_path, delimiter, spoilt, said):
    path = write_table(tmp_path / "t.csv", delimiter, spoilt)
    with pytest.raises(UserError, match=said) as caught:
        read_source(path)
    assert "quote" in caught.value.hint and "iconv" not in str(caught.value)


def test_what_a_csv_may_hold_is_read(tmp_path):
    spoilt = {5: '"HE ""SAID"", SO"', 6: '"TWO\nLINES"', 7: ' "SPACED"', 8: '6" NAIL'}
    items = read_source(write_table(tmp_path / "t.csv", ";", spoilt))
    said = {5: 'HE "SAID", SO', 6: "TWO\nLINES", 7: "SPACED", 8: '6" NAIL'}
    assert {n: items[n - 2].text for n in said} == said and len(items) == len(ROWS)


def test_a_table_of_another_kind_than_its_name_is_named(tmp_path):
    with pytest.raises(UserError, match="no tab in its first line"):
        read_source(write_table(tmp_path / "t.tsv", ","))
    with pytest.raises(UserError, match="two columns have the same name: path, path"):
        read_source(write_table(tmp_path / "t.csv", ",", name="path"))
    (tmp_path / "t.csv").write_text("path,text\nx.wav,A\n", encoding="utf-16")
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_source(tmp_path / "t.csv")
    assert "iconv" in caught.value.hint


def test_kaldi_utterances_without_audio_are_named(tmp_path, caplog):
    (tmp_path / "text").write_text("a A\nb B\n")
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    assert [(item.id, item.lost) for item in read_source(tmp_path)] == [
        ("a", ""),
        ("b", "no audio"),
    ]
    assert "1 are left out: b" in caplog.text


def recording(audio, name, channels=(0,)):
    info = soundfile.info(audio / name)
    return {
        "id": name,
        "sources": [
            {"type": "file", "channels": list(channels), "source": str(audio / name)},
        ],
        "sampling_rate": info.samplerate,
        "num_samples": info.frames,
        "duration": info.duration,
        "channel_ids": list(channels),
    }


def supervision(name, start, duration, text, channel=0):
    keys = ("id", "recording_id", "start", "duration", "channel", "text", "speaker")
    return dict(
        zip(keys, (f"{name}-{start}", name, start, duration, channel, text, "s"), strict=True)
    )


def write_lines(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_lhotse_supervisions_and_cuts_give_the_same(audio):
    length = soundfile.info(audio / "c.wav").duration
    stereo = recording(audio, "d.wav", (0, 1))
    stereo["sources"][0]["source"] = str(audio.parent / "d.wav")
    (audio / "d.wav").rename(audio.parent / "d.wav")
    supervisions = [
        supervision("c.wav", 0, length, "whole"),
        supervision("b.ogg", 0.2, 0.5, "piece"),
        supervision("d.wav", 0, 0.5, "right", 1),
    ]
    recordings = [recording(audio, "c.wav"), recording(audio, "b.ogg"), stereo]
    write_lines(audio / "x_recordings_train.jsonl.gz", recordings)
    path = write_lines(audio / "x_supervisions_train.jsonl.gz", supervisions)
    data = import_set(path)
    assert set(data.text.values()) == {"whole", "piece", "right"}
    assert data.segments["b.ogg-0.2"].start == pytest.approx(0.2)
    assert data.segments["b.ogg-0.2"].end == pytest.approx(0.7)
    assert data.segments["c.wav-0"].end == -1
    cuts = []
    for row, rec in zip(supervisions, recordings, strict=True):
        cut = {"id": row["id"], "start": row["start"] / 2, "duration": row["duration"]}
        inside = row | {"start": row["start"] / 2}
        cuts.append(
            {**cut, "channel": row["channel"], "supervisions": [inside]}
            | {"recording": rec, "type": "MonoCut"}
        )
    again = import_set(write_lines(audio / "cuts.jsonl.gz", cuts))
    assert again == data
    value = data.wav[data.segments["d.wav-0"].recording]
    assert not read(parse_source(value, "d"), "d")[0].any()


def test_what_lhotse_has_and_we_cannot_is_said(audio):
    mixed = {"id": "m", "tracks": [], "type": "MixedCut"}
    with pytest.raises(UserError, match=r"line 1: cut m .*MixedCut"):
        import_set(write_lines(audio / "cuts.jsonl.gz", [mixed]))
    path = write_lines(audio / "supervisions.jsonl.gz", [supervision("c.wav", 0, 1, "A")])
    with pytest.raises(UserError, match=r"recordings are not beside it \(recordings\.jsonl\.gz\)"):
        import_set(path)
    perturbed = recording(audio, "c.wav") | {"transforms": [{"name": "Speed"}]}
    write_lines(audio / "recordings.jsonl.gz", [perturbed])
    with pytest.raises(UserError, match="is transformed"):
        import_set(path)


def test_names_come_from_files_and_stay_apart(tmp_path):
    items = [
        Item("a/x.wav", "t"),
        Item("a/x.wav", "t", start=1.5),
        Item("y z.wav", "t", "own name"),
    ]
    assert names_of(items, tmp_path) == ["x", "x-0001500", "own_name"]
    same = [Item("a/1.wav", "t"), Item("b/1.wav", "t")]
    assert names_of(same, tmp_path) == ["a-1", "b-1"]
    with pytest.raises(UserError, match="two utterances are called x"):
        names_of([Item("a/x.wav", "t"), Item("a/x.wav", "u")], tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": float("nan")}, "line 2: start is 'nan', no number of seconds"),
        ({"start": "inf"}, "line 2: start is 'inf', no number of seconds"),
        ({"start": True}, "line 2: start is 'True', no number of seconds"),
        ({"start": [1]}, "line 2: start is '[1]', no number of seconds"),
        ({"start": 10**400}, "line 2: start is '1000"),
        ({"start": -1.5}, "two: -1.5 to 0.2 s is no stretch"),
        ({"start": 0.3}, "two: 0.3 to 0.2 s is no stretch"),
        ({"id": True}, "line 2: id is 'True', no text"),
        ({"audio": ["x"]}, "line 2: audio is \"['x']\", no text"),
        ({"text": {"a": 1}}, "line 2: text is \"{'a': 1}\", no text"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_line(tmp_path, change, said):
    good = {"audio": "x.wav", "text": "a", "start": 0.1, "end": 0.2}
    path = tmp_path / "x.jsonl"
    rows = [good | {"id": "one"}, good | {"id": "two"} | change]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        read_source(path)
    assert f"{path}" in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("line", ["1" * 5000, "[" * 100_000, "NaN", '{"a": 1', "\udcff"])
def test_a_line_that_is_no_json_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"audio": "x.wav", "text": "a"}}\n{line}\n', errors="surrogateescape")
    with pytest.raises(UserError, match="line 2" if line.isascii() else "cannot be read"):
        read_source(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("espnet_spike.corpora.manifests.LONGEST_LINE", 1 << 16)
    path = tmp_path / f"x.{kind}.gz"
    path.write_bytes(gzip.compress(b'{"audio,text": "' + bytes(1 << 17)))
    with pytest.raises(UserError, match="line 1: over 65536 characters"):
        read_source(path)


CUT = {
    "id": "u",
    "start": 0.0,
    "recording": {"duration": 2.0, "sources": [{"type": "file", "channels": [0], "source": "x"}]},
    "supervisions": [{"id": "u", "start": 0.5, "duration": 1.0, "text": "a", "channel": 0}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"recording": 5},
        {"recording": {}},
        {"recording": {"sources": [1]}},
        {"supervisions": [5]},
        {"supervisions": 5},
        {"supervisions": [{}]},
        {"start": None},
        {"supervisions": [CUT["supervisions"][0] | {"id": True}]},
        {"supervisions": [CUT["supervisions"][0] | {"channel": [[0]]}]},
        {"supervisions": [CUT["supervisions"][0] | {"duration": -1}]},
    ],
)
def test_a_line_that_lhotse_never_wrote_is_refused(tmp_path, change):
    path = tmp_path / "cuts.jsonl"
    path.write_text(json.dumps(CUT) + "\n")
    (item,) = read_source(path)
    assert item == Item("x", "a", "u", "", 0.5, 1.5)
    path.write_text(json.dumps(CUT | change) + "\n")
    with pytest.raises(UserError, match=r"cuts\.jsonl"):
        read_source(path)


@pytest.mark.parametrize("times", ["nan 0.2", "-0.1 0.2", "0.2 0.1", "0 nan", "inf -1"])
def test_a_segment_of_no_time_is_refused(tmp_path, times):
    (tmp_path / "wav.scp").write_text("r x.wav\n")
    (tmp_path / "text").write_text("u a\n")
    (tmp_path / "segments").write_text(f"u r {times}\n")
    with pytest.raises(UserError, match=r"u: .* s is no stretch of a recording"):
        read_source(tmp_path)


def test_half_of_a_surrogate_pair_is_no_text_and_names_have_no_spaces_around(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"audio_filepath": " a b.wav ", "text": "x "}\n')
    assert [(item.audio, item.text) for item in read_source(path)] == [("a b.wav", "x")]
    path.write_text('{"audio_filepath": "a.wav", "text": "x\\ud83d"}\n')
    with pytest.raises(UserError, match=r"line 1: text is 'x.ud83d', no text"):
        read_source(path)
