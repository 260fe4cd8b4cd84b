"""Decisions on the life of a model: retraining, promotion, rollback, retention."""
