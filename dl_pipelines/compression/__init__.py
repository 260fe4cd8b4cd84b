"""Smaller and faster models: techniques, and the ledger of what was tried."""
