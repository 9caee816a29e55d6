"""`stic-client readers`: a reader study against the held-out patients; it stays at the site."""
