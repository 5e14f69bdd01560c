"""What tests of this folder share."""

from tests.helpers.recordings import audio

__all__ = ["audio"]
