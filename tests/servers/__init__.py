"""Real servers that tests start on loopback and stop again: data in a temporary folder, ports picked free."""
