"""A site's prepared data: CT images, clinical columns, the dataset on disk."""
