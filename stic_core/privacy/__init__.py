"""What may leave a site (`release`), and how small cells are kept from being recomputed (`confusion_cells`)."""
