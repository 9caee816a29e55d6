"""What `stic-server status` reads and says."""
