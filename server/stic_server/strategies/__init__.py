"""How the server turns the sites' updates into the next global model."""
