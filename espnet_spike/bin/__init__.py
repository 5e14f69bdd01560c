"""Commands: ``python -m espnet_spike.bin.NAME --help``."""
