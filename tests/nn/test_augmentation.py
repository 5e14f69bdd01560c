import numpy as np
import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.nn import augmentation
from espnet_spike.nn.augmentation import (
    VTLP,
    Augmentation,
    Noise,
    Reverberation,
    Spectrum,
    slowest,
    stretch,
)

LOG_MEL = {"kind": "log_mel"}
CEPSTRA = {
    "kaldi": {"kind": "cepstra", "num_mel_bins": 23},
    "sphinx": {"kind": "cepstra", "num_mel_bins": 40, "dct": "mean", "lifter": 0.0},
}
CERTAIN = {"probability": 1.0}
ALL = {
    "features": LOG_MEL,
    "time_stretch": {},
    "vtlp": {},
    "reverberation": {"probability": 0.5},
    "noise": {},
}


def batch(dim=20, lengths=(50, 30, 41)):
    generator = torch.Generator().manual_seed(5)
    xs = torch.randn(len(lengths), max(lengths), dim, generator=generator) * 2
    for row, length in zip(xs, lengths, strict=True):
        row[length:] = 0
    return xs, torch.tensor(lengths)


def test_the_same_seed_draws_the_same_and_another_does_not():
    augment = Augmentation(**ALL)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augment(*batch()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][0].shape != found[2][0].shape or not torch.equal(found[0][0], found[2][0])


def test_off_in_evaluation_and_nothing_in_the_state_dict():
    augment = Augmentation(**ALL)
    assert not augment.state_dict()
    xs, ilens = batch()
    state = torch.get_rng_state()
    ys, olens = augment.eval()(xs, ilens)
    assert ys is xs and olens is ilens
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_stays_zero_and_the_batch_given_as_it_is():
    xs, ilens = batch()
    before = xs.clone()
    ys, olens = Augmentation(**ALL)(xs, ilens)
    assert torch.equal(xs, before)
    assert int(olens.max()) == ys.shape[1] and torch.isfinite(ys).all()
    for row, length in zip(ys, olens, strict=True):
        assert not row[length:].any() and row[:length].any(1).all()


def test_stretching_follows_linear_interpolation():
    xs, ilens = batch(dim=2, lengths=(40, 30))
    ys, olens = stretch(xs, ilens, torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert olens.tolist() == [80, 30]
    at = (np.arange(80) + 0.5) / 2 - 0.5
    for channel in range(2):
        wanted = np.interp(at, np.arange(40), xs[0, :, channel].numpy())
        np.testing.assert_allclose(ys[0, :, channel].numpy(), wanted, atol=1e-6)
    assert torch.equal(ys[1, :30], xs[1, :30])


@pytest.mark.parametrize(("factor", "frames"), [(0.9, 111), (1.0, 100), (1.1, 91)])
def test_a_stretched_length(factor, frames):
    augment = Augmentation(time_stretch={"factors": [factor]})
    assert augment.fastest == max(factor, 1)
    ys, olens = augment(*batch(lengths=(100,)))
    assert olens.tolist() == [frames] and ys.shape[1] == frames


def test_the_slowest_is_drawn_on_demand_only():
    augment = Augmentation(time_stretch={})
    with slowest(torch.nn.Sequential(augment)):
        assert all(augment(*batch())[1].tolist() == [56, 33, 46] for _ in range(5))
    assert not augment.slowest


def test_warped_frequencies_are_those_of_the_equation():
    vtlp = VTLP()
    hertz = np.array([0.0, 1000.0, 4000.0, 4800.0, 8000.0])
    # f alpha up to F min(alpha, 1) / alpha = 4363.6; above it a line to (8000, 8000)
    line = 8000 - (8000 - 4800) / (8000 - 4800 / 1.1) * (8000 - 4800)
    np.testing.assert_allclose(vtlp.warp(hertz, 1.1, 8000.0), [0, 1100, 4400, line, 8000])
    np.testing.assert_allclose(vtlp.warp(hertz, 1.0, 8000.0), hertz)
    warped = vtlp.warp(np.linspace(0, 4000, 500), 0.9, 4000.0)  # telephone speech
    assert (np.diff(warped) > 0).all() and warped[-1] == 4000


def test_a_formant_moves_by_the_factor():
    features = Spectrum("log_mel")
    hertz = features.centres(80)
    peak = torch.from_numpy(np.exp(-((hertz - 1000) ** 2) / 2e4)).float().repeat(3, 1)
    found = hertz[VTLP().apply(peak, 1.1, features).argmax(1)]
    np.testing.assert_allclose(found, 1000 / 1.1, rtol=0.03)
    assert torch.allclose(VTLP().apply(peak, 1.0, features), peak, atol=1e-5)


@pytest.mark.parametrize("kind", CEPSTRA)
def test_cepstra_are_the_cosine_transform_of_their_spectrum(kind):
    features = Spectrum(**CEPSTRA[kind])
    transforms = features.transforms(13)
    assert transforms is not None
    there, back = transforms
    torch.testing.assert_close(there @ back, torch.eye(13), atol=1e-5, rtol=1e-5)
    bins = features.bins(13)
    flat = torch.full((1, bins), 3.0) @ back
    wanted = 3.0 * (1 if kind == "sphinx" else bins**0.5)
    torch.testing.assert_close(flat[0, 0], torch.tensor(wanted))
    assert flat[0, 1:].abs().max() < 1e-4


@pytest.mark.parametrize("kind", CEPSTRA)
def test_vocal_tracts_are_warped_in_cepstra_as_in_their_spectrum(kind):
    options = {"features": CEPSTRA[kind], "vtlp": {"alpha": [0.9, 0.9]}}
    xs, ilens = batch(dim=13, lengths=(6,))
    ys, _ = Augmentation(**options)(xs, ilens)
    features = Spectrum(**CEPSTRA[kind])
    transforms = features.transforms(13)
    assert transforms is not None
    there, back = transforms
    wanted = VTLP().apply(xs[0] @ there, 0.9, features) @ back
    torch.testing.assert_close(ys[0], wanted, atol=1e-4, rtol=1e-4)
    assert (ys - xs).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr", [-10.0, 0.0, 20.0])
def test_noise_has_the_power_that_is_asked_for(kind, snr):
    options = {"kinds": [kind], "snr": [snr, snr], **CERTAIN}
    xs, ilens = batch()
    ys, _ = Augmentation(features=LOG_MEL, noise=options)(xs, ilens)
    for before, after, length in zip(xs, ys, ilens, strict=True):
        clean, noisy = before[:length].exp(), after[:length].exp()
        found = clean.mean() / (noisy - clean).mean()
        assert 10 * torch.log10(found) == pytest.approx(snr, abs=0.05)


def test_made_noise_has_its_density():
    torch.manual_seed(0)
    hertz = Spectrum("log_mel").centres(40)
    white = Noise.make("white", 4000, hertz).mean(0).numpy()
    pink = Noise.make("pink", 4000, hertz).mean(0).numpy()
    np.testing.assert_allclose(white / white[0], (700 + hertz) / (700 + hertz[0]), rtol=0.05)
    np.testing.assert_allclose(white / pink * pink[0] / white[0], hertz / hertz[0], rtol=0.05)


def test_recorded_noise_is_taken_from_its_folder():
    asked = []
    level = np.full((7, 20), 2.0, dtype=np.float32)

    def recordings(folder):
        asked.append(folder)
        return [level]

    options = {"folder": "noises", "snr": [3.0, 3.0], **CERTAIN}
    xs, ilens = batch(lengths=(30,))
    augment = Augmentation(features=LOG_MEL, noise=options, recordings=recordings)
    added = augment(xs, ilens)[0].exp() - xs.exp()
    assert asked == ["noises"]
    torch.testing.assert_close(added, added.mean().expand_as(added), rtol=1e-2, atol=1e-2)
    with pytest.raises(UserError, match=r"noises: noise 1 of feats\.scp has 20 dimensions, the sp"):
        augment(*batch(dim=21))


def test_echoes_decay_by_sixty_decibels_in_t60():
    impulse = torch.zeros(200, 3)
    impulse[10] = 1.0
    found = Reverberation.apply(impulse, t60=0.5, ratio=6.0, shift=0.01)
    assert not found[:10].any() and found[10, 0] == 1 and not found[61:].any()
    late = found[11:61, 0].double()
    assert 10 * torch.log10(1 / late.sum()) == pytest.approx(6.0, abs=1e-4)
    assert 10 * torch.log10(late[0] / late[-1]) * 50 / 49 == pytest.approx(60.0, abs=1e-3)


@pytest.mark.parametrize("part", ["vtlp", "reverberation", "noise"])
def test_who_is_not_drawn_stays_as_it_is(part):
    xs, ilens = batch()
    options = {"features": CEPSTRA["kaldi"], part: {"probability": 0.0}}
    assert torch.equal(Augmentation(**options)(xs, ilens)[0], xs)
    options[part] = {"probability": 0.5}
    torch.manual_seed(3)
    xs, ilens = batch(lengths=(20,) * 40)
    changed = (Augmentation(**options)(xs, ilens)[0] != xs).flatten(1).any(1).sum()
    assert 8 <= changed <= 32


BAD = {
    "vtlp needs to know": ({"vtlp": {}}, "have to know the features"),
    "nothing to do": ({"features": LOG_MEL}, "names nothing to do"),
    "kind": ({"features": {"kind": "mel"}}, r"augment\.features\.kind: must be log_mel"),
    "edges": ({"features": {"kind": "log_mel", "fs": 8000, "high_freq": 6800}}, "up to half of fs"),
    "factors": ({"time_stretch": {"factors": [0]}}, r"time_stretch\.factors: must be speeds"),
    "range": ({"features": LOG_MEL, "vtlp": {"alpha": [1.1, 0.9]}}, r"vtlp\.alpha: must be"),
    "probability": ({"features": LOG_MEL, "vtlp": {"probability": 2}}, r"probability: must lie"),
    "noise kind": ({"features": LOG_MEL, "noise": {"kinds": ["brown"]}}, r"noise\.kinds: must be"),
    "no folder": ({"features": LOG_MEL, "noise": {"kinds": ["recorded"]}}, r"noise\.folder: "),
    "t60": ({"features": LOG_MEL, "reverberation": {"t60": [0, 1]}}, r"t60: must be .* above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_named(name):
    options, message = BAD[name]
    with pytest.raises(UserError, match=message):
        Augmentation(**options)


def test_cepstra_with_deltas_are_refused():
    augment = Augmentation(features=CEPSTRA["kaldi"], vtlp={})
    with pytest.raises(UserError, match="39 cepstra of 23 filters"):
        augment(*batch(dim=39))


def test_every_part_is_one_of_the_constructor():
    import inspect

    assert [*augmentation.PARTS, "recordings"] == list(inspect.signature(Augmentation).parameters)


def test_what_dies_away_within_a_frame_is_its_first_echo():
    found = Reverberation.apply(torch.ones(4, 2), t60=0.001, ratio=0.0, shift=0.01)
    assert found.tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
