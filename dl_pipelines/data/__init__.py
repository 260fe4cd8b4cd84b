"""Records: sources, cleaning, validation, augmentation, the training window, batches."""
