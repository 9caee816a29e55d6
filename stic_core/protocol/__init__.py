"""What server and sites say to each other: messages, plans in words, compressed updates, the audit log."""
