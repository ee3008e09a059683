"""What every Lethe service does over HTTP: problems, limits, health, pages, operations, and how it is served."""
