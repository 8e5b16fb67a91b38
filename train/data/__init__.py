"""Slices and masks: where they come from, whose they are, and what is made of them for training."""
