"""Architecture families and their recipes, one file each."""
