"""Metrics of classification from logits: accuracy, macro precision, recall, F1, AUC-ROC, log loss, calibration error.

Definitions are scikit-learn's (`precision_recall_fscore_support(average="macro", zero_division=0)`,
`roc_auc_score(multi_class="ovr", average="macro")`, `log_loss`); the calibration error is Naeini et al., 2015, 15 bins.
Vectorised numpy, because the bootstrap calls them a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Metric

if TYPE_CHECKING:
    import numpy as np

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "higher", "Accuracy", "share", "ACC"),
        Metric("precision", "higher", "Precision (macro)", "share", "PREC"),
        Metric("recall", "higher", "Recall (macro)", "share", "REC"),
        Metric("f1", "higher", "F1 score (macro)", "", "F1"),
        Metric("auc", "higher", "AUC-ROC (macro, one against the rest)", "", "AUC"),
        Metric("loss", "lower", "Log loss", "nat", "LOSS"),
        Metric("calibration_error", "lower", "Expected calibration error", "share"),
    )
}


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] logits -> [N, K] probabilities, float64."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponent = np.exp(shifted)
    return exponent / exponent.sum(axis=1, keepdims=True)


def measure(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Every metric of [N, K] logits against [N] labels in 0..K-1.

    AUC is absent when one class only is there; all are for no rows, or logits that are not finite.
    """
    import numpy as np

    if len(logits) == 0 or not np.isfinite(logits).all():
        return {}
    classes = logits.shape[1]
    probabilities = softmax(logits)
    decided = logits.argmax(axis=1)
    correct = decided == targets
    confusion = np.bincount(targets * classes + decided, minlength=classes * classes).reshape(classes, classes)
    precision, recall, f1 = _per_class(confusion)
    values = {
        "accuracy": float(correct.mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "loss": float(-np.log(np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1)).mean()),
        "calibration_error": calibration_error(probabilities.max(axis=1), correct),
    }
    area = auc(probabilities, targets)
    if area is not None:
        values["auc"] = area
    return values


def _per_class(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import numpy as np

    hits, said, were = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    seen = (said + were) > 0
    hits, said, were = hits[seen], said[seen], were[seen]
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(were, 1)
    return precision, recall, 2 * hits / (said + were)


def auc(probabilities: np.ndarray, targets: np.ndarray) -> float | None:
    """Macro one-against-the-rest area under the ROC over the classes that are there; None below two classes."""
    import numpy as np

    rows, classes = probabilities.shape
    counts = np.bincount(targets, minlength=classes)
    present = (counts > 0) & (counts < rows)
    if present.sum() < 2:
        return None
    ranks = np.stack([_ranks(column) for column in probabilities.T], axis=1)
    positive = np.zeros((rows, classes))
    positive[np.arange(rows), targets] = 1
    sums = (ranks * positive).sum(axis=0)[present]
    ones = counts[present].astype(float)
    return float(((sums - ones * (ones + 1) / 2) / (ones * (rows - ones))).mean())


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1 of [N] scores, the mean of their places where some are equal (SciPy's takes a second to import)."""
    import numpy as np

    ordered = np.sort(scores)
    below, up_to = ordered.searchsorted(scores, "left"), ordered.searchsorted(scores, "right")
    return (below + up_to + 1) / 2


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean gap of confidence [N] in 0..1 and accuracy, in equal bins."""
    import numpy as np

    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def reliability(logits: np.ndarray, targets: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """Mean confidence, accuracy and rows of each bin that has rows; what the calibration error sums."""
    import numpy as np

    if len(logits) == 0 or not np.isfinite(logits).all():
        return []
    probabilities = softmax(logits)
    confidence, correct = probabilities.max(axis=1), logits.argmax(axis=1) == targets
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": round(float(confidence[place == number].mean()), 6),
            "accuracy": round(float(correct[place == number].mean()), 6),
            "rows": int((place == number).sum()),
        }
        for number in range(bins)
        if (place == number).any()
    ]
