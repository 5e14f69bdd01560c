import logging
from types import SimpleNamespace

import pytest
import torch
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.tasks.asr import ASRTask, decoder_choices, encoder_choices, model_choices

from espnet_spike.errors import UserError
from espnet_spike.tasks import registry
from espnet_spike.tasks.config_check import check_choice
from espnet_spike.tasks.model import SpikeASRModel
from tests.helpers.plugins import installed_plugins, kept_choices


@pytest.fixture
def classes():
    """Encoder choices that are put back after the test, and decoder choices."""
    with kept_choices():
        yield encoder_choices.classes


@pytest.fixture
def plugins(monkeypatch):
    with installed_plugins(monkeypatch):
        yield


class Encoder(AbsEncoder):
    def __init__(self, input_size: int):
        super().__init__()

    def output_size(self):
        return 1

    def forward(self, xs_pad, ilens, prev_states=None):
        return xs_pad, ilens, None


def test_a_registered_encoder_is_chosen_by_plain_espnet(classes):
    registry.register_encoder("mine", Encoder)
    args = ASRTask.get_parser().parse_args(["--encoder", "mine"])
    assert encoder_choices.get_class(args.encoder) is Encoder
    registry.register_encoder("mine", Encoder)  # the same again is no clash


class Decoder(AbsDecoder):
    def forward(self, hs_pad, hlens, ys_in_pad, ys_in_lens):
        return hs_pad, hlens


def test_a_registered_decoder_is_chosen_by_plain_espnet(classes):
    registry.register_decoder("mine", Decoder)
    args = ASRTask.get_parser().parse_args(["--decoder", "mine"])
    assert decoder_choices.get_class(args.decoder) is Decoder
    registry.register_decoder("mine", Decoder)  # the same again is no clash
    assert "mine" not in classes


def test_our_own_are_registered():
    registry.register_all()
    registry.register_all()
    assert set(registry.ENCODERS) <= set(encoder_choices.classes)
    assert set(registry.DECODERS) <= set(decoder_choices.classes)
    assert model_choices.get_class("spike_asr") is SpikeASRModel


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("conformer", Encoder, "taken by espnet2.*ConformerEncoder"),
        ("Mine", Encoder, "not lower case"),
        ("none", Encoder, "reserved"),
        ("mine", str, "not a subclass of AbsEncoder"),
        ("mine", Encoder(1), "not a subclass of AbsEncoder"),
    ],
)
def test_refused(classes, name, cls, message):
    before = dict(classes)
    with pytest.raises(UserError, match=message):
        registry.register_encoder(name, cls)
    assert classes == before


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("transformer", Decoder, "taken by espnet2.*TransformerDecoder"),
        ("Mine", Decoder, "not lower case"),
        ("mine", Encoder, "not a subclass of AbsDecoder"),
    ],
)
def test_a_decoder_is_refused(classes, name, cls, message):
    before = dict(decoder_choices.classes)
    with pytest.raises(UserError, match=message):
        registry.register_decoder(name, cls)
    assert decoder_choices.classes == before


def test_a_model_has_to_be_an_espnet_model():
    with pytest.raises(UserError, match="not a subclass of ESPnetASRModel"):
        registry.register_model("mine", Encoder)


def test_plugins_are_found_through_their_entry_points(plugins, caplog):
    with caplog.at_level(logging.WARNING):
        registry.register_all()
    assert encoder_choices.get_class("outside_mean").__name__ == "MeanEncoder"
    # broken ones cost a warning, and do not touch what was there
    warned = "\n".join(record.message for record in caplog.records)
    for name in ("not_importable", "not_an_encoder", "conformer"):
        assert f"encoder plugin broken-package:{name}" in warned
    assert encoder_choices.get_class("conformer") is ConformerEncoder
    assert decoder_choices.get_class("outside_sum").__name__ == "SumDecoder"
    for name in ("lost_decoder", "not_a_decoder", "transformer"):
        assert f"decoder plugin broken-package:{name}" in warned
    assert decoder_choices.get_class("transformer") is TransformerDecoder


@pytest.mark.parametrize(
    ("name", "reason"),
    [("not_importable", "ModuleNotFoundError"), ("not_an_encoder", "not a subclass")],
)
def test_asking_for_a_broken_plugin_names_its_distribution(plugins, name, reason):
    registry.register_all()
    with pytest.raises(UserError, match=f"'broken-package' cannot be used: .*{reason}"):
        encoder_choices.get_class(name)(input_size=80)
    with pytest.raises(UserError, match="broken-package"):
        check_choice("encoder", name, {}, encoder_choices.classes)


def test_asking_for_a_broken_decoder_names_its_distribution(plugins):
    registry.register_all()
    reason = "decoder 'lost_decoder' of .* 'broken-package' cannot be used: ModuleNotFoundError"
    with pytest.raises(UserError, match=reason):
        decoder_choices.get_class("lost_decoder")(vocab_size=5, encoder_output_size=4)
    with pytest.raises(UserError, match="not a subclass of AbsDecoder"):
        check_choice("decoder", "not_a_decoder", {}, decoder_choices.classes)


CHOICES = {"encoder": encoder_choices, "decoder": decoder_choices}


@pytest.mark.parametrize("kind", CHOICES)
def test_espnets_own_are_those_that_its_task_imports(kind):
    classes = {name: cls for name, cls in CHOICES[kind].classes.items() if _is_espnet(cls)}
    assert registry.espnet_classes(kind) == {
        n: f"{c.__module__}.{c.__name__}" for n, c in classes.items()
    }
    assert {"encoder": "conformer", "decoder": "transformer"}[kind] in classes


def _is_espnet(cls):
    return cls.__module__.split(".")[0] == "espnet2"


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "not installed"), ("encoder_choices = {}", "asr.py has no encoder_choices")],
)
def test_without_the_choices_of_espnet_nothing_is_listed(tmp_path, monkeypatch, source, message):
    spec = None
    if source is not None:
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "asr.py").write_text(source)
        spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(registry, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=message):
        registry.espnet_classes("encoder")


@pytest.mark.parametrize("kind", CHOICES)
def test_origins_are_the_same_whether_the_task_is_imported_or_not(plugins, caplog, kind):
    origins = {"encoder": registry.encoder_origins, "decoder": registry.decoder_origins}[kind]()
    registry.register_all()
    assert set(origins) == set(CHOICES[kind].classes)
    for name, cls in CHOICES[kind].classes.items():
        assert _is_espnet(cls) == (origins[name] == "espnet")
        assert hasattr(cls, "broken") == ("broken: " in origins[name])


def test_origins(plugins):
    origins = registry.encoder_origins()
    assert origins["iml_spikeformer"] == "espnet_spike"
    assert origins["transformer"] == "espnet"
    assert origins["outside_mean"] == "outside-package"
    assert origins["not_importable"].startswith("broken-package (broken: ")
    origins = registry.decoder_origins()
    assert origins["speech_mamba"] == "espnet_spike"
    assert origins["transformer"] == "espnet"  # the plugin of that name comes too late
    assert origins["outside_sum"] == "outside-package"
    assert origins["lost_decoder"].startswith("broken-package (broken: ")


def test_ours_and_those_of_plugins_are_listed_first():
    listed = registry.format_origins({"rnn": "espnet", "bb": "espnet_spike", "c": "aplugin"})
    assert listed.splitlines() == ["c    aplugin", "bb   espnet_spike", "rnn  espnet"]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_each_part_of_espnet_is_built_from_features_or_has_its_needs(kind):
    theirs = registry.espnet_classes(kind)
    built, needs = {*registry.FROM_FEATURES[kind]}, registry.NEEDS[kind].keys()
    assert not built & needs and built | needs == theirs.keys()


def test_what_is_listed_first_can_be_built_from_features_and_the_others_cannot():
    # but for one that is built, and then wants a model of several speakers
    found = set()
    for name, where in registry.espnet_classes("encoder").items():
        module, _, cls = where.rpartition(".")
        try:
            with torch.device("meta"):
                registry.load_class(f"{module}:{cls}")(80)
        except Exception:
            continue
        found.add(name)
    assert found == {*registry.FROM_FEATURES["encoder"], "transformer_multispkr"}


def test_what_cannot_be_built_is_below_with_what_it_needs(monkeypatch):
    origins = {
        "conformer": "espnet",
        "whisper": "espnet",
        "longformer": "espnet",
        "of_tomorrow": "espnet",
        "mine": "my_package 1.0",
        "theirs": "their_package 2.0 (broken: no module x)",
        "iml_spikeformer": "espnet_spike",
    }
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    first, below = registry.format_origins(origins).split("\n\n")
    assert [line.split()[0] for line in first.splitlines()] == [
        "iml_spikeformer",
        "mine",
        "conformer",
    ]
    needs = dict(line.split(maxsplit=1) for line in below.splitlines()[1:])
    assert needs["whisper"].startswith("the package whisper, waveforms (--feats_type raw), weights")
    assert needs["longformer"] == "the package longformer"
    assert "newer ESPnet" in needs["of_tomorrow"] and "broken: no module x" in needs["theirs"]
    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    assert "longformer" in registry.format_origins(origins).split("\n\n")[0]
