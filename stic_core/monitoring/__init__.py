"""What machines ask a running server or client: whether it serves (gRPC health), and how it is (Prometheus metrics)."""
