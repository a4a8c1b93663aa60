"""A self-hosted HTTP API that detects the objects in a photo."""
