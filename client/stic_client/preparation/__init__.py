"""From a hospital's files to a prepared dataset."""
