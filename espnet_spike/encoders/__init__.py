"""The encoders, one module each; ``espnet_spike.registry`` knows them by name."""
