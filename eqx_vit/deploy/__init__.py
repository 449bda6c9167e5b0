"""Making a trained model ready for use elsewhere."""
