"""The formats of model folders: how each is recognised, described, fetched and converted."""
