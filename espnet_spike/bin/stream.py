"""Transcribe a recording chunk by chunk, as if it were just being spoken, by greedy CTC.

Prints the text whenever it grows, then the latency of a chunk and the real-time factor. The model
must have been trained to stream: conf/train_streaming_speech_mamba_librispeech960.yaml.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import POSITIVE, RATE, Parser, run
from espnet_spike.utils.resources import config_file


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.stream", description=__doc__)
    parser.add_argument(
        "--asr_exp", type=Path, required=True, help="exp/<asr_tag>, or a pack of it"
    )
    parser.add_argument("--inference_asr_model", help="model file in asr_exp; the best by default")
    parser.add_argument(
        "--fbank_config",
        type=config_file,
        help="of its features, in place of what features.yaml beside the model says",
    )
    parser.add_argument("--chunk_ms", type=POSITIVE, default=160.0, help="length of a chunk")
    parser.add_argument(
        "--fs", type=RATE, help="sampling rate of training, if not known; WAV is resampled to it"
    )
    parser.add_argument("wav", metavar="WAV", help="any format that soundfile reads")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Transcribe."""
    args = get_parser().parse_args(argv)
    from espnet_spike.data.audio import Source, change_rate, read
    from espnet_spike.data.feature_extractor import FeatureExtractor
    from espnet_spike.experiment import left_out
    from espnet_spike.inference.streaming import Transcriber
    from espnet_spike.tasks.loading import load_model, open_model

    with open_model(args.asr_exp) as folder:
        feature_extractor = FeatureExtractor.find(folder.path, args.fbank_config, args.fs)
        config, rate = feature_extractor.features("stream"), feature_extractor.fs
        wave, found = read(Source(args.wav, path=args.wav), args.wav)
        if found != rate and not args.fs:
            raise UserError(
                f"{args.wav} has {found} Hz, and the model takes {rate} Hz",
                f"give --fs {rate} to have it resampled first",
            )
        wave = change_rate(wave, found, rate)
        trained = load_model(folder, args.inference_asr_model)
    model, to_text = trained.model, trained.to_text
    # a stream of its own first: loading the compiled kernels takes longer than any chunk
    Transcriber(model, config, rate).step(wave[:rate])
    transcriber = Transcriber(model, config, rate)
    size = max(1, round(rate * args.chunk_ms / 1000))
    for start in range(0, len(wave), size):
        if transcriber.step(wave[start : start + size]):
            seconds = min(start + size, len(wave)) / rate
            print(f"{seconds:7.2f} s  {to_text(transcriber.ctc.tokens)}", flush=True)
    print(f"text: {to_text(transcriber.ctc.tokens)}")
    if absent := left_out(vars(trained.options), kept=["ctc"]):
        print(f"greedy CTC; left out: {', '.join(absent)}")
    print("\n".join(transcriber.timing_lines(args.chunk_ms)))


if __name__ == "__main__":
    run(main)
