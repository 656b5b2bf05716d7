"""Groups of few channels: a channel in each lane."""
