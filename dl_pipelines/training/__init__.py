"""The training loop, its communicators, launch, checkpoints."""
