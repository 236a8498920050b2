"""Pictures in folders of classes."""
