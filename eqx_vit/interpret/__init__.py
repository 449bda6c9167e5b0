"""Looking inside a model: attention, features, tables of its layers, pictures."""
