"""Commands, one module each: ``python -m espnet_spike.bin.NAME --help`` or ``espnet-spike NAME``.

Here lives the command line: parse options, call one function below, print what it returns.
No logic lives here, and nothing but ``espnet_spike.__main__`` imports it.
"""
