import pytest
import yaml

from espnet_spike.bin import check_config
from espnet_spike.errors import UserError
from tests.conftest import ROOT
from tests.helpers.configs import GOOD


def test_command_checks_every_file_and_remembers(tmp_path, monkeypatch):
    asr, decode, cache = (tmp_path / n for n in ("asr.yaml", "decode.yaml", "made/cache.json"))
    asr.write_text(yaml.safe_dump(GOOD))
    decode.write_text("beam_size: 5\nctc_weight: 0.5\n")
    argv = ["--asr_config", str(asr), "--inference_config", str(decode), "--cache", str(cache)]
    argv += ["--fbank_config", str(ROOT / "conf" / "fbank.yaml")]
    check_config.main(argv)

    def unexpected(options):
        raise AssertionError("checked again")

    with monkeypatch.context() as patch:
        patch.setattr(check_config, "check", unexpected)
        check_config.main(argv)
        with pytest.raises(AssertionError):
            check_config.main([*argv, "--asr_args", "--max_epoch 3"])
    decode.write_text("beam_sise: 5\n")
    with pytest.raises(UserError, match=r"unknown key beam_sise .did you mean 'beam_size'"):
        check_config.main(argv)
    decode.write_text("beam_size: 5\n")
    with pytest.raises(UserError, match="unknown option --penaltyy"):
        check_config.main([*argv, "--inference_args", "--penaltyy 1"])
