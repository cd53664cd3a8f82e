"""Read the file names of datasets, one family of layouts a file; no reader opens an image."""
