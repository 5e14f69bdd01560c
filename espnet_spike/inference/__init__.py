"""From features or audio to text: beam search, greedy CTC, alignment, streaming (stage 10).

Here lives everything that runs a trained model on speech.
Training is not known here, nor error rates.
"""
