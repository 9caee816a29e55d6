"""What stands between the network and Flower's endpoints: limits, guard, signatures."""
