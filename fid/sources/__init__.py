"""Sources of images: whatever holds them, read one after the other."""
