import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.tasks.arguments import parse_espnet
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.build import build_on_meta, token_names
from espnet_spike.tasks.output_length import OutputLength
from espnet_spike.training.short_utterances import ctc_frames, drop_short

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1}


def arguments(encoder, conf, **more):
    config = {"encoder": encoder, "encoder_conf": conf, "model_conf": {"ctc_weight": 1.0}} | more
    args = parse_espnet(SpikeASRTask, config, ["--input_size", "40"])
    args.token_list = token_names(7)
    return args


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_ctc_frames_is_where_the_ctc_loss_becomes_finite(tokens):
    needed = ctc_frames(tokens)
    for frames in range(max(needed - 2, 1), needed + 2):
        loss = torch.nn.functional.ctc_loss(
            torch.zeros(frames, 1, 4).log_softmax(-1),
            torch.tensor([tokens]),
            torch.tensor([frames]),
            torch.tensor([len(tokens)]),
        )
        assert torch.isfinite(loss) == (frames >= needed)


def write_set(folder, utts):
    """utt -> (frames, transcript of one-letter tokens)."""
    folder.mkdir()
    (folder / "speech_shape").write_text("".join(f"{u} {t},40\n" for u, (t, _) in utts.items()))
    (folder / "text_shape").write_text("".join(f"{u} {len(x)},7\n" for u, (_, x) in utts.items()))
    (folder / "text").write_text("".join(f"{u} {x}\n" for u, (_, x) in utts.items()))
    return folder / "speech_shape", folder / "text_shape", folder / "text"


def identity_length():
    args = arguments("transformer", SMALL | {"input_layer": "linear"})
    return OutputLength(build_on_meta(SpikeASRTask, args), None, 40)


def test_drop_short(tmp_path):
    utts = {
        "enough": (4, "abab"),
        "long": (9, "aaaaa"),
        "repeats": (8, "aaaaa"),
        "short": (3, "abab"),
        "silent": (9, ""),
    }
    files = write_set(tmp_path / "in", utts)
    out = tmp_path / "out"
    dropped = dict(drop_short(*files, out, identity_length(), lambda s: [ord(c) for c in s], True))
    assert dropped.keys() == {"repeats", "short", "silent"}
    assert dropped["repeats"] == "8 encoder frames, CTC needs 9"
    assert (out / "speech_shape").read_text() == "enough 4,40\nlong 9,40\n"
    assert (out / "text_shape").read_text() == "enough 4,7\nlong 5,7\n"
    # attention alone needs no alignment
    dropped = drop_short(*files, out, identity_length(), lambda s: [ord(c) for c in s], False)
    assert [utt for utt, _ in dropped] == ["silent"]


def test_what_would_be_too_short_at_the_fastest_tempo_is_dropped(tmp_path):
    files = write_set(tmp_path / "in", {"enough": (5, "abab"), "exact": (4, "abab")})
    dropped = drop_short(
        *files, tmp_path / "out", identity_length(), lambda s: [ord(c) for c in s], True, 1.1
    )
    assert dropped == [("exact", "3 encoder frames when 1.1 times as fast, CTC needs 4")]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("uvw", min_size=1, max_size=4),
        st.tuples(st.integers(1, 12), st.text("ab", min_size=1, max_size=8)),
        min_size=1,
        max_size=8,
    )
)
def test_exactly_those_that_ctc_cannot_align_are_dropped(tmp_path_factory, utts):
    folder = tmp_path_factory.mktemp("sets")
    files = write_set(folder / "in", utts)
    expected = {u for u, (frames, text) in utts.items() if frames < ctc_frames(text.encode())}
    try:
        dropped = drop_short(*files, folder / "out", identity_length(), str.encode, True)
    except UserError as error:
        assert "no utterance" in error.message and expected == set(utts)
    else:
        assert {utt for utt, _ in dropped} == expected


def test_shapes_that_do_not_match(tmp_path):
    speech, text, transcripts = write_set(tmp_path / "in", {"a": (9, "ab")})
    text.write_text("b 2,7\n")
    with pytest.raises(UserError, match="differ in 2 utterances, first: a"):
        drop_short(speech, text, transcripts, tmp_path / "out", identity_length(), list, True)
