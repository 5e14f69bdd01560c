"""One rule for the size of a training, from five minutes to a thousand hours."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_spike.advice.plan import (
    ENCODERS,
    SIZES,
    base_of,
    choose_rate,
    count_pieces,
    make_plan,
    size_of,
    trial_seconds,
)
from espnet_spike.advice.sizing import size_training
from espnet_spike.errors import UserError
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_yaml
from tests.helpers.measured import speech

AN4 = speech(0.63, 13, words=4861, letters=11934, alphabet=26, utterances=846, longest=6.3)


def planned(measured, encoder="iml_spikeformer"):
    name = base_of(measured, encoder)
    return make_plan(measured, encoder, base=None if name is None else read_yaml(shipped(name)))


def test_an4_gets_what_is_known_to_work_there():
    plan = planned(AN4)
    assert (plan.size.name, plan.size.width, plan.size.dropout) == ("small", 128, 0.15)
    assert (plan.pieces, plan.freq_mask, plan.time_mask) == (30, 3, 12)
    assert 4000 < plan.updates < 4300 and plan.warm_up == round(0.1 * plan.updates)
    assert plan.learning_rate == 0.003 and 28 < plan.batch_seconds < 34


# hours: model, seconds an update, updates, vocabulary
TABLE = {
    1 / 12: ("tiny", 18, 2006, 33),
    1: ("small", 38, 4560, 50),
    10: ("medium", 120, 9000, 452),
    100: ("train_iml_spikeformer_librispeech100.yaml", 380, 28410, 4502),
    1000: ("train_iml_spikeformer_librispeech960.yaml", 1202, 89880, 5002),
}


@pytest.mark.parametrize("hours", TABLE)
@pytest.mark.parametrize("dims", [13, 80])
def test_the_rule_at(hours, dims):
    model, seconds, updates, vocabulary = TABLE[hours]
    plan = planned(speech(hours, dims))
    assert (plan.base or plan.size.name) == model
    assert plan.batch_seconds * plan.accum_grad == pytest.approx(seconds, abs=1)
    assert plan.updates == pytest.approx(updates, rel=0.01)
    assert plan.vocabulary == vocabulary
    assert plan.freq_mask == dims // 4
    # frames, and at most as many tokens as letters and spaces
    assert plan.batch_bins == round(plan.batch_seconds * (100 + 12 + 2.7))
    assert 0 < plan.warm_up <= plan.updates / 4
    assert plan.passes > 29.5 and trial_seconds(plan) == min(60, plan.batch_seconds)


CONF = {
    name: read_yaml(shipped(name))
    for name in {
        base_of(speech(h, ideographic=i), e)
        for h in (30, 99, 999)
        for e in ENCODERS
        for i in (False, True)
    }
    if name is not None
}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0.01, 3000), st.integers(1, 200), st.sampled_from(ENCODERS), st.booleans())
def test_no_plan_contradicts_itself(hours, dims, encoder, ideographic):
    measured = speech(hours, dims, ideographic=ideographic)
    plan = make_plan(measured, encoder, base=CONF.get(base_of(measured, encoder)))
    assert 0 < plan.warm_up < plan.updates
    assert 4 * plan.freq_mask <= dims and 10 * plan.time_mask <= 400 + 10
    assert plan.batch_seconds >= min(measured.longest, measured.seconds) / plan.accum_grad
    assert plan.vocabulary > measured.alphabet and plan.token_type in ("bpe", "char")
    more = replace(measured, seconds=2 * measured.seconds)
    larger = make_plan(more, encoder, base=CONF.get(base_of(more, encoder)))
    assert larger.updates >= 0.9 * plan.updates
    assert SIZES.index(larger.size) >= SIZES.index(plan.size)


def test_the_vocabulary_follows_the_text():
    assert count_pieces(AN4) == 30
    assert count_pieces(speech(1, alphabet=60)) == 64
    assert count_pieces(speech(10_000)) == 5000
    many = planned(speech(10, ideographic=True, alphabet=3000))
    assert (many.token_type, many.vocabulary) == ("char", 3003)
    assert make_plan(AN4, token_type="char").vocabulary == 26 + 1 + 3  # and <space>
    assert make_plan(AN4, pieces=100).vocabulary == 102


@pytest.mark.parametrize(
    ("rates", "fs"),
    [((), None), ((8000,), None), ((16000,), None), ((44100,), 16000), ((8000, 16000), 16000)],
)
def test_mixed_and_high_sampling_rates_become_16_khz(rates, fs):
    assert choose_rate(speech(1, rates=rates)) == fs


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("hours", [30, 100, 1000])
@pytest.mark.parametrize("ideographic", [False, True])
def test_large_data_take_a_file_that_is_there(encoder, hours, ideographic):
    name = base_of(speech(hours, ideographic=ideographic), encoder)
    assert name is not None and read_yaml(shipped(name))["encoder"] == encoder
    assert base_of(speech(29.0), encoder) is None


@given(st.floats(0.01, 30))
def test_small_data_are_seen_until_words_are_learnt(hours):
    """2000 updates at least where 200 passes make so many."""
    plan = make_plan(speech(hours))
    assert plan.updates >= 2000 or plan.epochs == 200
    assert 30 <= plan.epochs <= 200


def test_no_rounding_leaves_fewer_updates_than_are_wanted():
    """18 an epoch were 1998 in 111, which the verdict called too few."""
    plan = planned(replace(speech(0.17, 80), longest=17.0))
    assert plan.updates_an_epoch == 18 and plan.updates == 112 * 18


def test_a_budget_takes_updates_and_at_least_one_is_left():
    whole = make_plan(AN4)
    half = make_plan(AN4, most_updates=whole.updates // 2)
    assert whole.updates / 2 - whole.updates_an_epoch < half.updates <= whole.updates / 2
    assert half.cut == pytest.approx(0.5, abs=0.02) and half.warm_up < half.updates
    few = make_plan(AN4, most_updates=40)
    assert (few.updates, few.epochs) == (40, 10)
    assert make_plan(AN4, most_updates=1).updates >= 1
    assert make_plan(AN4, most_updates=10**6) == whole


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UserError, match="--encoder spikeformer") as caught:
        make_plan(AN4, "spikeformer")
    assert "iml_spikeformer" in caught.value.hint
    assert size_of(0.0).name == "tiny"


def test_the_documentation_shows_the_rule(root):
    """The rows of docs/sizing.md are what the rule says."""
    text = (root / "docs/sizing.md").read_text(encoding="utf-8")
    for hours in (*TABLE, 30):
        sized = size_training(speech(hours), 0.0, trial_updates=0)
        plan = sized.plan
        row = [
            f"{60 * hours:.0f} min" if hours < 1 else f"{hours} h",
            plan.base or f"{plan.size.name}, {plan.size.blocks} x {plan.size.width}",
            f"{sized.parameters / 1e6:.1f}",
            f"{plan.batch_seconds * plan.accum_grad:.0f}",
            *(str(plan.epochs), str(plan.updates), str(plan.warm_up), str(plan.vocabulary)),
            "that of the file" if plan.base else "tempo, vocal tract",
        ]
        drawn = sized.config["model_conf"].get("augment", {})
        assert bool(plan.base) != (drawn.keys() == {"features", "time_stretch", "vtlp"})
        assert "| " + " | ".join(row) + " |" in text, row
