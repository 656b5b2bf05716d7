"""What several definitions share."""
