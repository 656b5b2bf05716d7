"""Several Python threads on one network: locks, streams, passes."""
