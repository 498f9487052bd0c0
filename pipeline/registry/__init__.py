"""Versions of the model, the champion and the history."""
