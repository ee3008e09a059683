"""Durable jobs: records with leases, executors that run them in child processes, a runner that watches over them."""
