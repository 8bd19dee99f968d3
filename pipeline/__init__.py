"""The plumbing: Ray Data and storage around the operations of `eim_ops`."""
