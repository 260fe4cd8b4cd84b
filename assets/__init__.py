"""The assets, one file per stage: about ten lines an asset. No tensors, no decisions: those are the library's."""
