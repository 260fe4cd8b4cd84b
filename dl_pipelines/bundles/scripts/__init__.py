"""Scripts that are copied into bundles as they are; nothing here imports them."""
