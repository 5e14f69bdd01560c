"""What is differentiable: norms, checkpointing, carried states, and the packages of networks.

Here lives what every network shares; ``ops``, ``neurons`` and ``layers`` build on each other.
Nothing here knows of ESPnet's tasks, of files or of experiments.
"""
