"""Advice to a user, before a training and after it: its size, doubts, and the verdict.

It looks at data and at folders of experiments, and reads what others write; nothing is trained here
but the few updates of a trial.
"""
