"""One training: its options, the network, the Trainer, and what is kept of the run."""
