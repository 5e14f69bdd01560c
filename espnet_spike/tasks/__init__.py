"""ESPnet's ASR and language model tasks with this package's encoders, model and trainer in them.

Here live the registry, the checks of a configuration, and building and loading a model.
No experiment is trained and nothing is decoded here.
"""
