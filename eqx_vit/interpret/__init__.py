"""Looking inside a model: attention, features, tables of its layers, pictures."""

from ..families.maps import AttentionMap as AttentionMap, Feature as Feature
