"""What several test modules share; importable as `support`."""
