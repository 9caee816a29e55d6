"""Using a model at the site: predictions, their pages, cross-validation."""
