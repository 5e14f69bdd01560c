"""espnet_spike: speech recognition recipes whose encoders spike.

Importing this package is cheap and has no side effects. ``espnet_spike.task`` registers the
encoders with ESPnet; every command under ``espnet_spike.bin`` imports it where it is needed.
"""

__version__ = "0.1.0"
