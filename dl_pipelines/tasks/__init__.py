"""One file per task: schema, split, batch, metrics, decisions, signature, parity, logging. See `base.Task`."""
