"""`privacy-audit`: what a model betrays of the patients that it learned from, measured where they are."""
